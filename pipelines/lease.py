"""A lease: the right of one process to write below a directory of a bucket.

A file lock is freed when its process dies, but a bucket has no file locks. So a lease ends if its
holder does not renew it.

`_LEASE.json` names the holder, who replaces it every few seconds. Each write requires that the
object still has the version of the last write (Google's generation, Amazon's ETag), so of two
writers one fails. Nobody compares clocks: a process that wants the lease watches it for its
duration, and takes it over if it was not renewed. The holder counts from the moment before it sent
the last renewal, so it stops before another process begins. Other processes of its job follow the
lease. They count from the moment before they last read the version that the renewal replaced.
"""

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import AbstractContextManager

from mswitch.pipelines import storage
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.objects import BucketError, ChangedError, read_version, replace_version
from mswitch.pipelines.progress import say

LEASE = "_LEASE.json"
#: Seconds that a lease lasts without renewal.
LEASE_SECS = 60.0


class LeaseLostError(Exception):
    """The lease expired or was taken over, or its bucket fails, so nothing more may be written."""


class Lease:
    """A lease that this process holds until it expires.

    Attributes:
        directory: the place that it protects.
        url: URL of the object.
        key: identifies the lease for other processes.
    """

    def __init__(self, directory: str):
        self.directory = directory
        self.url = storage.join(directory, LEASE)
        self.key = uuid.uuid4().hex
        self._version: str | None = None
        self._until = 0.0
        self._released = threading.Event()

    def check(self) -> None:
        """Check that this process may write.

        Raises:
            LeaseLostError: this process may not write.
        """
        if time.monotonic() >= self._until:
            raise LeaseLostError(
                f"the lease {self.url} could not be renewed for {LEASE_SECS:g} s, or another run "
                "took it over"
            )

    def take(self, stage: str) -> None:
        """Take the lease if it is free or if nobody renews it."""
        watched, deadline = None, 0.0
        while (stored := read_version(self.url)) is not None and (
            holder := _read_field(stored[0], "holder")
        ):
            if watched is None:
                watched, deadline = stored[1], time.monotonic() + LEASE_SECS
                say(stage, f"{self.directory} was in use by {holder}; waiting for its next renewal")
            elif stored[1] != watched:
                raise UserError(self._in_use(holder))
            elif time.monotonic() >= deadline:
                break
            time.sleep(LEASE_SECS / 20)
        self._version = stored and stored[1]
        try:
            self._write(_describe_self())
        except ChangedError:
            raise UserError(self._in_use("which began at the same time")) from None

    def _in_use(self, holder: str) -> str:
        return (
            f"{self.directory} is in use by another run ({holder}): wait for it to end or stop it"
        )

    def _write(self, holder: str) -> None:
        begun = time.monotonic()
        # On s3://, an object's version depends on its bytes, so write different bytes each time.
        renewal = f"{self.key}-{uuid.uuid4().hex}"
        data = json.dumps({"holder": holder, "renewal": renewal}).encode()
        try:
            self._version = replace_version(self.url, data, self._version)
        except ChangedError:
            # The client may have repeated a request whose answer was lost. Then the object has the
            # data of this write.
            stored = read_version(self.url)
            if stored is None or stored[0] != data:
                self._until = 0.0
                raise
            self._version = stored[1]
        self._until = begun + LEASE_SECS

    def keep(self) -> None:
        """Renew the lease until it is released or lost."""
        while not self._released.wait(LEASE_SECS / 4):
            try:
                self._write(_describe_self())
            except ChangedError:
                return
            except BucketError:  # if no later renewal succeeds, the lease expires
                continue

    def release(self, keeper: threading.Thread) -> None:
        """Stop the thread of `keep`, and free the lease unless another process already has it."""
        self._released.set()
        keeper.join()
        # If this write fails, the lease expires anyway.
        with contextlib.suppress(LeaseLostError, ChangedError, BucketError):
            self.check()
            self._write("")


class FollowedLease(Lease):
    """A lease that another process of the same job holds.

    `key` is the key of the holder's lease, which was valid just now.
    """

    def __init__(self, directory: str, key: str):
        super().__init__(directory)
        self.key = key
        self._seen = time.monotonic()
        # The lease was valid just now, and its holder renews it every `LEASE_SECS / 4`. So the
        # lease stays valid for at least `LEASE_SECS / 2`.
        self._until = self._seen + LEASE_SECS / 2

    def keep(self) -> None:
        """Watch the holder's renewals until this lease is released or another process holds it."""
        while not self._released.wait(LEASE_SECS / 8):
            begun = time.monotonic()
            try:
                stored = read_version(self.url)
            except BucketError:
                stored = None
            if stored is None:  # no answer, or the lease was replaced during the read
                continue
            data, version = stored
            if not (
                _read_field(data, "holder") and _read_field(data, "renewal").startswith(self.key)
            ):
                self._until = 0.0
                return
            if self._version not in (None, version):
                self._until = self._seen + LEASE_SECS
            self._version, self._seen = version, begun

    def release(self, keeper: threading.Thread) -> None:
        """Stop the thread of `keep`."""
        self._released.set()
        keeper.join()


def _describe_self() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _read_field(data: bytes, name: str) -> str:
    try:
        return str(json.loads(data)[name])
    except (ValueError, LookupError, TypeError):
        return ""


def hold_lease(directory: str, stage: str) -> AbstractContextManager[Lease]:
    """Keep other writers away from `directory` while the body runs.

    `directory` is a gs:// or s3:// URL; messages name the waiting `stage`.

    Return a context manager that yields the lease: `check` it before each write.
    """
    lease = Lease(directory)
    lease.take(stage)
    return _keep(lease)


def follow_lease(directory: str, key: str) -> AbstractContextManager[Lease]:
    """Follow the lease with this `key`, which another process of the job holds.

    Return a context manager as `hold_lease` does.
    """
    return _keep(FollowedLease(directory, key))


@contextlib.contextmanager
def _keep(lease: Lease) -> Iterator[Lease]:
    keeper = threading.Thread(target=lease.keep, name="lease", daemon=True)
    keeper.start()
    try:
        yield lease
    finally:
        lease.release(keeper)
