"""Reserve disk space, so that a job's end can be recorded even on a full disk."""

import contextlib
import os
import shutil
from pathlib import Path

from mswitch.pipelines.errors import is_disk_full
from mswitch.pipelines.outputs import write_atomically

RESERVE, RESERVE_BYTES = "reserve", 1 << 18


def keep_room(directory: Path) -> None:
    """Write a file that reserves disk space, unless it exists or the disk is full."""
    reserve = directory / RESERVE
    if not reserve.exists():
        with contextlib.suppress(OSError):
            write_atomically(reserve, os.urandom(RESERVE_BYTES))


def write_reserved(path: Path, text: str) -> None:
    """Write a file atomically; if the disk is full, first delete the file that reserves space."""
    try:
        write_atomically(path, text)
    except OSError as error:
        if not is_disk_full(error):
            raise
        path.with_name(RESERVE).unlink(missing_ok=True)
        write_atomically(path, text)


def has_no_room(directory: Path) -> bool:
    """Return whether the disk's free space is less than twice the reserved space."""
    return shutil.disk_usage(directory).free < 2 * RESERVE_BYTES
