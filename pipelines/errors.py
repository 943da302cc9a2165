"""Errors in one line, for users to read."""

import errno
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

#: Last line of a traceback that Beam passes on as text, for a UserError or a listed subclass.
_FLATTENED = re.compile(
    r"^mswitch\.pipelines\.[\w.]+\."
    r"(?:User|WorkerDied|Missing|Bucket|OverLimit|Unreachable)Error: (.+)$",
    re.M,
)
#: Suffix that Beam adds to the message of an error.
_STEP = re.compile(r" \[while running '[^']*'\]$")
DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded")


class UserError(Exception):
    """Bad input, option or environment; the message is one line: the problem, and how to fix it.

    The command prints the message without a traceback and exits with code 2.
    """


def printable(text: str) -> str:
    """Replace line ends and control characters, such as in names of files, fields and URLs."""
    return "".join(c if c.isprintable() else " " if c.isspace() else "?" for c in text)


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, then the errors that caused it, outermost first."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__


def is_disk_full(error: BaseException) -> bool:
    """Return whether a full disk caused `error`.

    The text of an error counts too, because Beam may flatten its cause (`as_user_error`).
    """
    return any(
        (isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT))
        or DISK_FULL.search(str(cause))
        for cause in causes(error)
    )


def full_disk(place: str | Path | None, needed_bytes: int = 0) -> UserError:
    """Return the error for a full disk.

    `place` is a file or directory on the disk, None if unknown; `needed_bytes` is 0 if unknown.
    """
    if place is None:
        return UserError("no space left on a disk that this command writes to: free some")
    mount = os.path.realpath(place)
    while not os.path.ismount(mount):
        mount = os.path.dirname(mount)
    usage = shutil.disk_usage(mount)
    amount = f"{math.ceil(needed_bytes / 2**20):,} MiB" if needed_bytes else "some"
    return UserError(
        f"no space left on the disk of {place} ({mount}, {usage.free >> 20:,} of "
        f"{usage.total >> 20:,} MiB free): free {amount}, and give the same command again, or "
        "Retry its flow run; it continues"
    )


def as_user_error(error: BaseException) -> UserError | None:
    """Return the readable cause of `error`, or None if it is a defect of mswitch.

    If several bundles run at a time, Beam flattens the cause into the text of a RuntimeError.
    """
    for cause in causes(error):
        if isinstance(cause, UserError):
            return UserError(_STEP.sub("", str(cause)))
        if isinstance(cause, PermissionError) and cause.filename:
            return UserError(f"no permission for {cause.filename}: choose a path you may use")
        if isinstance(cause, OSError) and cause.errno == errno.EROFS:
            return UserError(f"{cause.filename} is on a read-only disk: choose another path")
        if isinstance(cause, RuntimeError) and (flattened := _FLATTENED.findall(str(cause))):
            return UserError(_STEP.sub("", flattened[-1]))
    named = (getattr(cause, "filename", None) for cause in causes(error))
    return full_disk(next(filter(None, named), None)) if is_disk_full(error) else None
