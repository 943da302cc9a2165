"""Downloads over HTTP: patient, resumed where they stopped, checked against the server's word.

Range requests and `If-Range`: RFC 9110, sections 13 and 14. `Retry-After`: section 10.2.3.
"""

import dataclasses
import email.utils
import importlib.metadata
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import requests
import urllib3

from pipelines.checksums import verify
from pipelines.errors import UserError
from pipelines.progress import say

CHUNK_BYTES = 256 << 10
#: The server is busy or broken, and may not be a moment later.
TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
MISSING_STATUS = (403, 404, 410)
#: Downloads of one file from the beginning, after damaged or changed ones.
MAX_STARTS = 4

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Patience:
    """How long to bear with a server.

    Attributes:
        attempts: requests in a row that bring nothing, until a download is given up.
        first_wait_secs: wait after the first of them; it doubles each time, with jitter.
        longest_wait_secs: where the doubling ends.
        longest_retry_after_secs: a server that asks for a longer pause ends the download.
        connect_secs: for a connection.
        silence_secs: without a byte, until a connection counts as broken.
    """

    attempts: int = 6
    first_wait_secs: float = 1.0
    longest_wait_secs: float = 60.0
    longest_retry_after_secs: float = 600.0
    connect_secs: float = 10.0
    silence_secs: float = 60.0


@dataclasses.dataclass(frozen=True)
class Fetched:
    """A file that was downloaded: its size and the SHA-256 of its bytes."""

    size_bytes: int
    sha256: str


class MissingError(UserError):
    """The server says that there is no such file (or shows it to nobody)."""


class CancelledError(Exception):
    """Another download failed, and this one was told to stop."""


class _TransientError(Exception):
    def __init__(self, message: str, retry_after_secs: float = 0.0):
        super().__init__(message)
        self.retry_after_secs = retry_after_secs


_TRANSIENT_ERRORS = (_TransientError, requests.RequestException, urllib3.exceptions.HTTPError)


class Downloader:
    """Downloads files for one purpose; its methods may be called from several threads.

    When a server asks for a pause, all threads pause.

    Args:
        purpose: what the files are for; part of the User-Agent.
        patience: how long to bear with the server.
        on_bytes: called with the number of bytes that came in.
    """

    def __init__(
        self,
        purpose: str,
        patience: Patience | None = None,
        on_bytes: Callable[[int], None] = lambda count: None,
    ):
        self.patience = patience or Patience()
        self.user_agent = f"mswitch/{importlib.metadata.version('mswitch')} ({purpose})"
        self._on_bytes = on_bytes
        self._cancelled = threading.Event()
        self._quiet_until = 0.0

    def cancel(self) -> None:
        """Make every download of this object stop soon, with CancelledError."""
        self._cancelled.set()

    def fetch(self, url: str, path: Path) -> Fetched:
        """Download `url` to `path`, which appears once the file is whole and checked.

        What is there of it lies beside `path` until then: a later call goes on from it.

        Raises:
            MissingError: there is no such file.
            UserError: the server cannot be reached, refuses, or keeps sending damaged data.
            CancelledError: `cancel` was called.
        """
        partial = _Partial(url, path)
        refused: set[str] = set()
        error = ""
        for _ in range(MAX_STARTS):
            self._receive(url, partial)
            fetched, error = verify(partial.data, partial.stated)
            # The ETag of an encrypted object looks like an MD5 and is none. The same bytes twice
            # are what the server has.
            if not error or (fetched.sha256 in refused and error.startswith("ETag")):
                partial.publish()
                return Fetched(fetched.size_bytes, fetched.sha256)
            refused.add(fetched.sha256)
            partial.discard()
        raise UserError(
            f"{url} comes damaged again and again ({error}): try later; the same command continues"
        )

    def head_and_tail(self, url: str, count: int) -> tuple[int, bytes, bytes]:
        """Return a file's size and its first and last `count` bytes, without the rest.

        Raises:
            UserError: as for `fetch`, or the server gives no sizes or no parts of files.
        """

        def part(asked: str) -> tuple[int, bytes]:
            with self._request(url, {"Range": f"bytes={asked}"}) as response:
                given = response.headers.get("Content-Range", "")
                size = re.fullmatch(r"bytes [\d*-]*/(\d+)", given)
                if response.status_code == 416 and size and size[1] == "0":
                    return 0, b""
                if response.status_code != 206 or not size:
                    raise UserError(
                        f"{url}: the server gives no parts of files; download it and give its path"
                    )
                return int(size[1]), response.raw.read(count, decode_content=False)

        size, head = self._patiently(url, lambda: part(f"0-{count - 1}"))
        tail = self._patiently(url, lambda: part(f"-{count}"))[1] if size else b""
        return size, head, tail

    def _receive(self, url: str, partial: "_Partial") -> None:
        """Make requests until everything is there."""
        done = False
        while not done:
            done = self._patiently(url, lambda: self._go_on(url, partial), partial.size)

    def _patiently(
        self, url: str, request: Callable[[], _T], progress: Callable[[], int] = lambda: 0
    ) -> _T:
        """Repeat a request that fails for reasons that may pass."""
        failures, farthest = 0, progress()
        while True:
            self._sleep(self._quiet_until - time.monotonic())
            try:
                return request()
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
                raise UserError(f"{url} is no URL to download from ({error})") from error
            except _TRANSIENT_ERRORS as error:
                now = progress()
                failures, farthest = (1 if now > farthest else failures + 1), max(now, farthest)
                if failures >= self.patience.attempts:
                    raise UserError(
                        f"cannot download {url} ({_reason(error)}; {failures} attempts): check the "
                        "network or try later; the same command continues"
                    ) from error
                self._pause(url, failures, error)

    def _pause(self, url: str, failures: int, error: Exception) -> None:
        patience = self.patience
        retry_after_secs = getattr(error, "retry_after_secs", 0.0)
        if retry_after_secs > patience.longest_retry_after_secs:
            raise UserError(
                f"{url}: the server is busy and asks to wait {retry_after_secs:,.0f} s: run the "
                "same command then; it continues"
            )
        wait = min(patience.first_wait_secs * 2 ** (failures - 1), patience.longest_wait_secs)
        wait *= random.uniform(0.5, 1.0)  # noqa: S311 so that clients do not come back together
        if retry_after_secs:
            wait += retry_after_secs
            self._quiet_until = max(self._quiet_until, time.monotonic() + wait)
        if wait >= 1:
            say("download", f"{url}: {_reason(error)}; once more in {wait:.0f} s")
        self._sleep(wait)

    def _sleep(self, secs: float) -> None:
        if self._cancelled.wait(max(0.0, secs)):
            raise CancelledError

    def _request(self, url: str, headers: Mapping[str, str]) -> requests.Response:
        """Send one GET; raise for a status that promises no data."""
        response = requests.get(
            url,
            # Bytes as they are stored: offsets and checksums are theirs.
            headers={"User-Agent": self.user_agent, "Accept-Encoding": "identity", **headers},
            stream=True,
            timeout=(self.patience.connect_secs, self.patience.silence_secs),
        )
        status = response.status_code
        if status in (200, 206, 416):
            return response
        response.close()
        if status in TRANSIENT_STATUS:
            raise _TransientError(f"HTTP {status}", _retry_after(response))
        if status in MISSING_STATUS:
            raise MissingError(f"{url} does not exist on the server (HTTP {status})")
        raise UserError(f"{url}: the server answers HTTP {status} ({response.reason})")

    def _go_on(self, url: str, partial: "_Partial") -> bool:
        """Make one request for what is missing; True if nothing is missing any more."""
        have = partial.size()
        if have and have == partial.total:
            return True
        headers = {}
        if have and partial.validator:
            headers = {"Range": f"bytes={have}-", "If-Range": partial.validator}
        with self._request(url, headers) as response:
            goes_on = response.status_code == 206 and partial.continued_by(response.headers, have)
            if response.status_code != 200 and not goes_on:
                partial.discard()
                raise _TransientError("the file on the server has changed")
            if not goes_on:
                partial.start(response.headers)
            # As it comes, unbuffered: a killed run keeps what it got.
            with open(partial.data, "ab", buffering=0) as file:
                while block := response.raw.read1(CHUNK_BYTES, decode_content=False):
                    file.write(block)
                    self._on_bytes(len(block))
                    if self._cancelled.is_set():
                        raise CancelledError
        have = partial.size()
        if partial.total is not None and have < partial.total:
            raise _TransientError(f"the connection ended after {have:,} of {partial.total:,} bytes")
        return True


class _Partial:
    """What there is of a file so far, beside its final path, and what the server said of it."""

    def __init__(self, url: str, path: Path):
        self.path = path
        self.data = path.with_name(f".{path.name}.part")
        self._notes = path.with_name(f".{path.name}.part.json")
        self.stated: dict[str, str] = {}
        self._url = url
        try:
            notes = json.loads(self._notes.read_text())
            if notes["url"] == url:
                self.stated = notes["stated"]
        except (OSError, ValueError, KeyError):
            pass
        if not self.stated:
            self.discard()

    @property
    def total(self) -> int | None:
        """Size of the whole file, if the server has said."""
        length = self.stated.get("content-length", "")
        return int(length) if length.isdigit() else None

    @property
    def validator(self) -> str:
        """What `If-Range` may name: a strong ETag, else the date, else nothing."""
        etag = self.stated.get("etag", "")
        return etag if etag.startswith('"') else self.stated.get("last-modified", "")

    def size(self) -> int:
        """Bytes that are there."""
        return self.data.stat().st_size if self.data.exists() else 0

    def start(self, headers: Mapping[str, str]) -> None:
        """Begin from nothing, with what the server says of the file."""
        self.data.write_bytes(b"")
        self.stated = {name.lower(): value for name, value in headers.items()}
        self._notes.write_text(json.dumps({"url": self._url, "stated": self.stated}))

    def continued_by(self, headers: Mapping[str, str], have: int) -> bool:
        """Whether a partial response (206) is the rest of this very file."""
        total = "*" if self.total is None else str(self.total)
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        etag = headers.get("ETag", "")
        return (
            span is not None
            and int(span[1]) == have
            and (span[2] == "*" or total in ("*", span[2]))
            and etag in ("", self.stated.get("etag", etag))
        )

    def discard(self) -> None:
        """Forget everything."""
        self.data.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)
        self.stated = {}

    def publish(self) -> None:
        """Give the whole file its name."""
        with open(self.data, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self.data, self.path)
        self._notes.unlink(missing_ok=True)


def _retry_after(response: requests.Response) -> float:
    """Seconds that a server asks to wait, 0 if it does not say."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit():
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except (TypeError, ValueError):
        return 0.0
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _reason(error: Exception) -> str:
    """Name the cause behind the layers of requests and urllib3 in a few words."""
    cause: Any = error
    while True:
        inner = getattr(cause, "reason", None) or (cause.args[0] if cause.args else None)
        if not isinstance(inner, Exception):
            break
        cause = inner
    return re.sub(r"^.*?\): ", "", " ".join(str(cause).split())) or type(cause).__name__
