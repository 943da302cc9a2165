"""A job on a disk that is full says so, and continues once there is room."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mswitch.flows.jobs import record, reserve
from mswitch.flows.jobs.host import read_code, write_code
from mswitch.flows.jobs.job import Job
from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.record import edit_record, prepare_record, read_record
from mswitch.pipelines.outputs import write_atomically

FULL_DISK = """
mount -t tmpfs -o size=1m tmpfs "$1" || exit 77
"$2" -c "$3" "$1"
code=$?
mount -o remount,size=100m "$1"
"$2" -c "$3" "$1" || exit 1
exit $code
"""
#: What a flow does, and does again on Retry: the job, and then what is on the disk besides.
FLOW = """
import os, sys
from pathlib import Path
from mswitch.flows.jobs.doors import follow, want
from mswitch.flows.jobs.host import read_code, write_code
from mswitch.flows.jobs.job import Job
from mswitch.flows.jobs.life import Timing
from mswitch.flows.jobs.local import Local
from mswitch.flows.jobs.record import read_record

out = Path(sys.argv[1], "sample")
job = Job(("sample", "gflanguages", "--out", str(out)), out)
before = read_record(job.path)
if before is None or before.alive is None:
    want(job, Local(), "somebody")
if before is None:  # all but some blocks for the output, and none for the record
    with open(Path(sys.argv[1], "other"), "wb") as other:
        other.write(bytes(400_000))
state = follow(job, Local(), timing=Timing(poll_secs=0.1))
print(state.name, state.message)
print(read_record(job.path).last.outcome)
"""


def test_the_outcome_is_written_and_the_job_asked_for_again_continues(tmp_path):
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare to mount a small disk")
    done = subprocess.run(
        ["unshare", "--mount", "--map-root-user", "sh", "-c", FULL_DISK, "sh", str(tmp_path),
         sys.executable, FLOW],
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    if done.returncode == 77:
        pytest.skip(f"this kernel lets no user mount a small disk: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    full, outcome, again, last = done.stdout.splitlines()
    code, message = full.split(" ", 1)  # the other one if even the command's last line has no room
    assert code in ("refused", "failed")
    assert message.startswith(
        f"no space left on the disk of {tmp_path}/sample ({tmp_path}, 0 of 1 MiB free): "
    )
    assert message.endswith("Retry its flow run; it continues")
    assert (outcome, again, last) == (code, "done done", "done")


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(("sample", "gflanguages", "--out", str(tmp_path / "out")), tmp_path / "out")


def test_the_room_for_the_record_is_given_up_once_and_made_again(job, monkeypatch):
    with edit_record(job.path, lambda before: prepare_record(job, Local(), before)):
        pass
    kept = job.directory / reserve.RESERVE
    assert kept.stat().st_size == reserve.RESERVE_BYTES

    def write_if_free(path, data):
        if kept.exists() or Path(path) == kept:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_atomically(path, data)

    with monkeypatch.context() as patch:
        for module in (record, reserve):
            patch.setattr(module, "write_atomically", write_if_free)
        with edit_record(job.path, minor=True) as edited:
            edited.owner = "not written"
        assert kept.exists()
        assert read_record(job.path).owner == ""
        with edit_record(job.path) as edited:
            edited.owner = "somebody"
        assert not kept.exists()
    assert read_record(job.path).owner == "somebody"
    with edit_record(job.path) as edited:
        edited.owner = "else"
    assert kept.exists()


def test_an_exit_code_is_written_into_the_room(job, tmp_path, monkeypatch):
    reserve.keep_room(tmp_path)

    def write_if_free(path, data):
        if (tmp_path / reserve.RESERVE).exists():
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_atomically(path, data)

    monkeypatch.setattr(reserve, "write_atomically", write_if_free)
    write_code(tmp_path / "code.json", 2)
    assert read_code(tmp_path / "code.json")["code"] == 2
