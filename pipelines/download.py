"""Downloads over HTTP: patient, resumed where they stopped, checked against the server's headers.

Range requests and `If-Range`: RFC 9110, sections 13 and 14.
"""

import base64
import binascii
import contextlib
import dataclasses
import gzip
import hashlib
import importlib.metadata
import json
import os
import re
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import google_crc32c
import requests
import urllib3
from urllib3 import Retry

from mswitch.pipelines.errors import UserError, causes
from mswitch.pipelines.progress import say

CHUNK_BYTES = 256 << 10
#: For a connection, and without a byte until a connection counts as broken.
TIMEOUTS_SECS = (10.0, 60.0)
#: Requests in a row that bring nothing after the first, and the waits between them.
RETRY = Retry(5, backoff_factor=1.0, backoff_jitter=1.0, backoff_max=60.0)
#: A server that asks for a longer pause ends the download.
LONGEST_PAUSE_SECS = 600
#: The server is busy or broken, and may not be a moment later.
TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
MISSING_STATUS = (403, 404, 410)

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Fetched:
    """A file that was downloaded: its size and the SHA-256 of its bytes."""

    size_bytes: int
    sha256: str


class MissingError(UserError):
    """The server says that there is no such file (or refuses to give it)."""


class CancelledError(Exception):
    """Another download failed, so this one was stopped."""


class _TransientError(Exception):
    def __init__(self, message: str, pause_secs: float = 0.0):
        super().__init__(message)
        self.pause_secs = pause_secs


class Downloader:
    """Downloads files for one purpose; its methods may be called from several threads.

    Args:
        purpose: what the files are for; part of the User-Agent.
        retry: how many requests in a row may bring nothing, and the waits between them.
        on_bytes: called with the number of bytes that came in.
    """

    def __init__(
        self,
        purpose: str,
        retry: Retry = RETRY,
        on_bytes: Callable[[int], None] = lambda count: None,
    ):
        self.user_agent = f"mswitch/{importlib.metadata.version('mswitch')} ({purpose})"
        self._retry = retry
        self._on_bytes = on_bytes
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """Make every download of this object stop soon, with CancelledError."""
        self._cancelled.set()

    def fetch(self, url: str, path: Path) -> Fetched:
        """Download `url` to `path`, which appears once the file is whole and checked.

        Until then, what is there of it is beside `path`, and a later call continues it.

        Raises:
            MissingError: there is no such file.
            CancelledError: `cancel` was called.
        """
        partial = _Partial(url, path)

        def whole() -> Fetched:
            self._receive(url, partial)
            fetched, error = _verify(partial.data, partial.headers)
            if error:
                partial.discard()
                raise _TransientError(f"the data came damaged: {error}")
            return fetched

        fetched = self._patiently(url, whole, partial.size)
        partial.publish()
        return fetched

    def head_and_tail(self, url: str, count: int) -> tuple[int, bytes, bytes]:
        """Return a file's size and its first and last `count` bytes, without the rest."""

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

    def _patiently(
        self, url: str, request: Callable[[], _T], progress: Callable[[], int] = lambda: 0
    ) -> _T:
        """Repeat a request that fails for reasons that may pass."""
        retry, farthest, wait_secs = self._retry, progress(), 0.0
        while not self._cancelled.wait(wait_secs):
            try:
                return request()
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
                raise UserError(f"{url} is not a URL to download from ({error})") from error
            except (_TransientError, requests.RequestException, urllib3.exceptions.HTTPError) as e:
                if progress() > farthest:
                    retry, farthest = self._retry, progress()
                retry, wait_secs = self._next_try(url, e, retry)
        raise CancelledError

    def _next_try(self, url: str, error: Exception, retry: Retry) -> tuple[Retry, float]:
        """What is left of the retries after `error`, and seconds to wait."""
        reason = str([*causes(error)][-1]) or type(error).__name__
        try:
            retry = retry.increment("GET", url, error=error)
        except urllib3.exceptions.MaxRetryError:
            raise UserError(
                f"cannot download {url} ({reason}; {len(retry.history) + 1} attempts): check the "
                "network or try later; the same command continues"
            ) from error
        asked_secs = getattr(error, "pause_secs", 0.0)
        if asked_secs > LONGEST_PAUSE_SECS:
            raise UserError(
                f"{url}: the server is busy and asks to wait {asked_secs:,.0f} s: run the same "
                "command then; it continues"
            )
        wait_secs = asked_secs + retry.get_backoff_time()
        if wait_secs >= 1:
            say("download", f"{url}: {reason}; once more in {wait_secs:.0f} s")
        return retry, wait_secs

    @contextlib.contextmanager
    def _request(self, url: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
        """Send one GET; raise for a status that promises no data."""
        # Bytes as they are stored: offsets and checksums are theirs.
        own = {"User-Agent": self.user_agent, "Accept-Encoding": "identity"}
        with requests.get(
            url, headers={**own, **headers}, stream=True, timeout=TIMEOUTS_SECS
        ) as response:
            status = response.status_code
            if status in TRANSIENT_STATUS:
                pause_secs = self._retry.get_retry_after(response.raw) or 0.0
                raise _TransientError(f"HTTP {status}", pause_secs)
            if status in MISSING_STATUS:
                raise MissingError(f"{url} does not exist on the server (HTTP {status})")
            if status not in (200, 206, 416):
                raise UserError(f"{url}: the server answers HTTP {status} ({response.reason})")
            yield response

    def _receive(self, url: str, partial: "_Partial") -> None:
        """Make one request for what is missing.

        Raises:
            _TransientError: it did not bring all of it.
        """
        have = partial.size()
        if have and have == partial.total:
            return
        asked = {}
        if have and partial.validator:
            asked = {"Range": f"bytes={have}-", "If-Range": partial.validator}
        with self._request(url, asked) as response:
            if response.status_code == 200:
                partial.start(response.headers)
            elif not (response.status_code == 206 and partial.fits(response.headers, have)):
                partial.discard()
                raise _TransientError("the file on the server has changed")
            # As it comes, unbuffered: a killed run keeps what it got.
            with open(partial.data, "ab", buffering=0) as file:
                while block := response.raw.read1(CHUNK_BYTES, decode_content=False):
                    file.write(block)
                    self._on_bytes(len(block))
                    if self._cancelled.is_set():
                        raise CancelledError
        have = partial.size()
        if partial.total is not None and have != partial.total:
            raise _TransientError(f"the connection ended after {have:,} of {partial.total:,} bytes")


class _Partial:
    """What there is of a file so far, beside its final path, and the server's headers for it."""

    def __init__(self, url: str, path: Path):
        self.path = path
        self.data = path.with_name(f".{path.name}.part")
        self._notes = path.with_name(f".{path.name}.part.json")
        self._url = url
        self.headers: dict[str, str] = {}
        with contextlib.suppress(OSError, ValueError):
            self.headers = json.loads(self._notes.read_text()).get(url, {})
        if not self.headers:
            self.discard()

    @property
    def total(self) -> int | None:
        """Size of the whole file, if the server has said."""
        length = self.headers.get("content-length", "")
        return int(length) if length.isdigit() else None

    @property
    def validator(self) -> str:
        """What `If-Range` may name: a strong ETag, else the date, else nothing."""
        etag = self.headers.get("etag", "")
        return etag if etag.startswith('"') else self.headers.get("last-modified", "")

    def size(self) -> int:
        """Bytes that are there."""
        return self.data.stat().st_size if self.data.exists() else 0

    def start(self, headers: Mapping[str, str]) -> None:
        """Begin from nothing, with the headers of the whole file."""
        self.data.write_bytes(b"")
        self.headers = {name.lower(): value for name, value in headers.items()}
        self._notes.write_text(json.dumps({self._url: self.headers}))

    def fits(self, headers: Mapping[str, str], have: int) -> bool:
        """Whether a partial response (206) is the rest of this file."""
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", headers.get("Content-Range", ""))
        return (
            span is not None
            and int(span[1]) == have
            and (span[2] == "*" or self.total in (None, int(span[2])))
            and headers.get("ETag") in (None, self.headers.get("etag", headers.get("ETag")))
        )

    def discard(self) -> None:
        """Forget everything."""
        self.data.unlink(missing_ok=True)
        self._notes.unlink(missing_ok=True)
        self.headers = {}

    def publish(self) -> None:
        """Give the whole file its name."""
        with open(self.data, "rb") as file:
            os.fsync(file.fileno())
        os.replace(self.data, self.path)
        self._notes.unlink(missing_ok=True)


def stated_digests(headers: Mapping[str, str]) -> list[tuple[str, str, bytes]]:
    """Header, algorithm and digest of the whole file, as headers (by lower-case name) state it."""
    texts = [("content-md5", "md5", headers.get("content-md5", ""))]
    for algorithm, text in re.findall(r"(md5|crc32c)=([^, ]*)", headers.get("x-goog-hash", "")):
        texts.append(("x-goog-hash", algorithm, text))
    found = []
    for header, algorithm, text in texts:
        with contextlib.suppress(binascii.Error):
            if digest := base64.b64decode(text, validate=True):
                found.append((header, algorithm, digest))
    return found


def _verify(path: Path, headers: Mapping[str, str]) -> tuple[Fetched, str]:
    """Measure a file; return also what contradicts the headers, "" if nothing does.

    Where no header states a digest, a gzip file must decompress to its end.
    """
    stated = stated_digests(headers)
    digests: dict[str, Any] = {"sha256": hashlib.sha256()}
    for _, algorithm, _ in stated:
        is_md5 = algorithm == "md5"
        digests[algorithm] = hashlib.new("md5") if is_md5 else google_crc32c.Checksum()  # noqa: S324
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            for digest in digests.values():
                digest.update(block)
        file.seek(0)
        is_gzip = file.read(2) == b"\x1f\x8b"
    fetched = Fetched(path.stat().st_size, digests["sha256"].hexdigest())
    for header, algorithm, digest in stated:
        if digests[algorithm].digest() != digest:
            return fetched, f"{header} says another {algorithm}"
    if not stated and is_gzip:
        try:
            with gzip.open(path) as file:
                while file.read(1 << 20):
                    pass
        except (OSError, EOFError, zlib.error) as error:
            return fetched, f"its gzip data is damaged: {error}"
    return fetched, ""
