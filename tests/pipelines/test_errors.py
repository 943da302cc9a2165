import errno
import traceback

import pytest

from mswitch.pipelines.dataflow_jobs import OverLimitError
from mswitch.pipelines.download import MissingError
from mswitch.pipelines.errors import UserError, as_user_error, full_disk, is_disk_full
from mswitch.pipelines.faults import fault_point
from mswitch.pipelines.local_pool import WorkerDiedError
from mswitch.pipelines.objects import BucketError
from mswitch.pipelines.samples.translations import UnreachableError
from mswitch.pipelines.storage import publish


def test_a_full_disk_is_recognised_even_through_beam():
    assert is_disk_full(OSError(errno.ENOSPC, "No space left on device", "out/data/de.parquet"))
    assert is_disk_full(RuntimeError("OSError: [Errno 28] No space left on device [while running]"))
    wrapped = RuntimeError("bundle failed")
    wrapped.__cause__ = OSError(errno.EDQUOT, "Disk quota exceeded")
    assert is_disk_full(wrapped)
    assert not is_disk_full(OSError(errno.ENOENT, "No such file or directory"))


def test_a_chained_user_error_is_found():
    error = RuntimeError("bundle failed")
    error.__cause__ = UserError("no such file: a.wet")
    assert str(as_user_error(error)) == "no such file: a.wet"


def test_a_user_error_is_found_in_what_beam_makes_of_it():
    def kinds(kind: type[UserError]) -> list[type[UserError]]:
        return [kind, *(below for one in kind.__subclasses__() for below in kinds(one))]

    ours = {kind for kind in kinds(UserError) if kind.__module__.startswith("mswitch.pipelines.")}
    known = {WorkerDiedError, MissingError, BucketError, OverLimitError, UnreachableError}
    assert {UserError, *known} <= ours
    for kind in ours:
        try:
            raise kind("no such file: a.wet")
        except UserError:
            flattened = RuntimeError(f"{traceback.format_exc()} [while running 'IngestShard']")
        assert str(as_user_error(flattened)) == "no such file: a.wet"


def test_a_read_only_disk_is_named():
    error = OSError(errno.EROFS, "Read-only file system", "out/stats.html")
    assert str(as_user_error(error)) == "out/stats.html is on a read-only disk: choose another path"


def test_a_defect_stays_a_defect():
    assert as_user_error(ZeroDivisionError("division by zero")) is None


def test_fault_points_are_known_by_name():
    with pytest.raises(ValueError, match="unknown fault point"):
        fault_point("corpus.nowhere")


def test_a_full_disk_is_named_with_what_is_needed(tmp_path):
    error = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "record.json"))
    said = str(as_user_error(error))
    assert said.startswith(f"no space left on the disk of {tmp_path}/record.json (/")
    assert said.endswith(
        "free some, and give the same command again, or Retry its flow run; it continues"
    )
    assert "free 3 MiB, and" in str(full_disk(tmp_path, (2 << 20) + 1))
    flattened = RuntimeError("OSError: [Errno 28] No space left on device [while running 'x']")
    assert str(as_user_error(flattened)).startswith("no space left on a disk")


def test_a_write_that_fails_names_its_file(tmp_path):
    with pytest.raises(OSError, match="No space left") as raised, publish(tmp_path / "a.json"):
        raise OSError(errno.ENOSPC, "No space left on device")  # as a write does
    assert f"the disk of {tmp_path}/a.json (" in str(as_user_error(raised.value))
