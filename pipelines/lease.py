"""A lease on a place in a bucket: what a lock is on a disk, where no kernel frees locks.

`_LEASE.json` names the holder, who replaces it every few seconds. Each write is on the condition
that the object is still the version that was written before (Google's generation, Amazon's ETag),
so of two writers one fails. Nobody compares clocks: who finds the lease taken watches it for as
long as it lasts, and takes it over if it was not renewed meanwhile. The holder counts from before
it sent the last renewal, so it stops before anybody else begins. Other processes of its job follow
the lease: they count from before they last read the version that the renewal replaced.
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
#: How long a lease lasts that is not renewed. It is renewed four times as often.
LEASE_SECS = 60.0


class LeaseLostError(Exception):
    """The lease ran out or was taken over, or its bucket fails: nothing more can be written."""


class Lease:
    """A lease that this process holds, until it runs out.

    Attributes:
        directory: what it is on.
        url: of the object.
        key: by which other processes know it.
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
            LeaseLostError: it may not.
        """
        if time.monotonic() >= self._until:
            raise LeaseLostError(
                f"the lease {self.url} could not be renewed for {LEASE_SECS:g} s, or another run "
                "took it over"
            )

    def take(self, stage: str) -> None:
        """Take a lease that is free, or becomes so because nobody renews it."""
        watched, deadline = None, 0.0
        while (found := read_version(self.url)) is not None and (
            holder := _field(found[0], "holder")
        ):
            if watched is None:
                watched, deadline = found[1], time.monotonic() + LEASE_SECS
                say(stage, f"{self.directory} was in use by {holder}; waiting whether it still is")
            elif found[1] != watched:
                raise UserError(self._in_use(holder))
            elif time.monotonic() >= deadline:
                break
            time.sleep(LEASE_SECS / 20)
        self._version = found and found[1]
        try:
            self._write(_me())
        except ChangedError:
            raise UserError(self._in_use("one that began at the same time")) from None

    def _in_use(self, holder: str) -> str:
        return (
            f"{self.directory} is in use by another run ({holder}): wait for it to end or stop it"
        )

    def _write(self, holder: str) -> None:
        begun = time.monotonic()
        # Never the same bytes twice: on s3:// they are the version.
        renewal = f"{self.key}-{uuid.uuid4().hex}"
        data = json.dumps({"holder": holder, "renewal": renewal}).encode()
        try:
            self._version = replace_version(self.url, data, self._version)
        except ChangedError:
            # A request whose answer was lost has been sent again.
            found = read_version(self.url)
            if found is None or found[0] != data:
                self._until = 0.0
                raise
            self._version = found[1]
        self._until = begun + LEASE_SECS

    def keep(self) -> None:
        """Renew the lease until it is released or lost."""
        while not self._released.wait(LEASE_SECS / 4):
            try:
                self._write(_me())
            except ChangedError:
                return
            except BucketError:  # the next renewal may succeed; else the lease runs out
                continue

    def release(self, keeper: threading.Thread) -> None:
        """End `keep`, and say that the lease is free, unless others have it already."""
        self._released.set()
        keeper.join()
        with contextlib.suppress(LeaseLostError, ChangedError, BucketError):  # it runs out anyway
            self.check()
            self._write("")


class FollowedLease(Lease):
    """A lease that another process of the same job holds.

    Args:
        directory: what it is on.
        key: of the holder's lease, which was valid just now.
    """

    def __init__(self, directory: str, key: str):
        super().__init__(directory)
        self.key = key
        self._seen = time.monotonic()
        # The holder's last renewal is not older than the time between two of them.
        self._until = self._seen + LEASE_SECS / 2

    def keep(self) -> None:
        """Watch the holder renew it, until that is released or another has it."""
        while not self._released.wait(LEASE_SECS / 8):
            begun = time.monotonic()
            try:
                found = read_version(self.url)
            except BucketError:
                found = None
            if found is None:  # no answer, or replaced while it was read: the next look may tell
                continue
            data, version = found
            if not (_field(data, "holder") and _field(data, "renewal").startswith(self.key)):
                self._until = 0.0
                return
            if self._version not in (None, version):  # written since the last look
                self._until = self._seen + LEASE_SECS
            self._version, self._seen = version, begun

    def release(self, keeper: threading.Thread) -> None:
        """End `keep`."""
        self._released.set()
        keeper.join()


def _me() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _field(data: bytes, name: str) -> str:
    """What a lease says; nothing where the object is damaged."""
    try:
        return str(json.loads(data)[name])
    except (ValueError, LookupError, TypeError):
        return ""


def hold_lease(directory: str, stage: str) -> AbstractContextManager[Lease]:
    """Keep every other writer away from `directory` as long as the body runs.

    Args:
        directory: a gs:// or s3:// URL.
        stage: who waits, for messages.

    Returns:
        What gives the lease: `check` it before each write.
    """
    lease = Lease(directory)
    lease.take(stage)
    return _kept(lease)


def follow_lease(directory: str, key: str) -> AbstractContextManager[Lease]:
    """Follow a lease that another process of the job holds, whose `key` this is.

    It gives what `hold_lease` gives.
    """
    return _kept(FollowedLease(directory, key))


@contextlib.contextmanager
def _kept(lease: Lease) -> Iterator[Lease]:
    keeper = threading.Thread(target=lease.keep, name="lease", daemon=True)
    keeper.start()
    try:
        yield lease
    finally:
        lease.release(keeper)
