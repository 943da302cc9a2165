"""Locks that the kernel frees when a process ends; a locked directory has one writer."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from mswitch.pipelines.errors import UserError, full_disk, is_disk_full

LOCK_PATIENCE_SECS = 10.0


def follow_link(out: str | Path) -> Path:
    """Return the directory that `out` is a symbolic link to, or `out` itself.

    Staging and lock are beside this directory: a rename cannot replace a link.
    """
    return Path(os.path.realpath(out)) if os.path.islink(out) else Path(out)


def take_lock(file: IO[bytes] | IO[str] | int, kind: int = fcntl.LOCK_EX) -> bool:
    """Lock an open file unless another process holds the lock; return whether this succeeded."""
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock of a file."""
    try:
        with open(path, "rb") as file:
            return not take_lock(file, fcntl.LOCK_SH)
    except FileNotFoundError:
        return False


@contextlib.contextmanager
def lock_directory(out: str | Path, option: str = "--out") -> Iterator[None]:
    """Keep other writers away from `out`; the kernel frees the lock if this process is killed.

    Messages name `option`; it is "" if the user cannot choose another directory.
    """
    link, out = out, follow_link(out)
    if os.path.islink(link) and not out.exists():
        raise UserError(
            f"{link} is a symbolic link to {out}, which does not exist: make that directory"
        )
    if not _is_utf8(out):
        raise UserError(
            f"the name of {option or 'the directory'} {os.fspath(out)!a} is not UTF-8: choose "
            "another, or set LC_ALL=C.UTF-8 if this terminal writes UTF-8"
        )
    elsewhere = f", or choose another {option}" if option else ""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(out.parent / f".{out.name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(
            f"cannot write to {out.parent}: {error.strerror}; make that possible{elsewhere}"
        ) from error
    try:
        deadline = time.monotonic() + LOCK_PATIENCE_SECS
        while not take_lock(descriptor):
            if time.monotonic() >= deadline:
                holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip()
                raise UserError(
                    f"{out} is in use by another run (process {holder or 'unknown'}): "
                    f"wait for it to end or stop it{elsewhere}"
                )
            time.sleep(0.1)
        os.ftruncate(descriptor, 0)
        try:
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            yield
        except Exception as error:
            if is_disk_full(error) and not isinstance(error, UserError):
                raise full_disk(out) from error
            raise
    finally:
        os.close(descriptor)


def _is_utf8(path: Path) -> bool:
    """Return whether the file system encodes a path in UTF-8, as libraries assume."""
    try:
        return os.fsencode(path) == str(path).encode()
    except UnicodeEncodeError:
        return False
