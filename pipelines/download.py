"""Downloads over HTTP with retries; a file appears only when complete and checked."""

import base64
import binascii
import contextlib
import dataclasses
import gzip
import hashlib
import importlib.metadata
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
from mswitch.pipelines.storage import SECRETS, hide_secrets

CHUNK_BYTES = 256 << 10
#: Timeouts for connecting, and for waiting until a connection sends a byte.
TIMEOUTS_SECS = (10.0, 60.0)
RETRY = Retry(5, backoff_factor=1.0, backoff_jitter=1.0, backoff_max=60.0)
#: A longer pause that a server asks for ends the download.
LONGEST_PAUSE_SECS = 600
#: HTTP statuses of a server that is busy or broken, perhaps temporarily.
TRANSIENT_STATUS = (408, 425, 429, 500, 502, 503, 504)
MISSING_STATUS = (403, 404, 410)

_T = TypeVar("_T")


@dataclasses.dataclass(frozen=True)
class Fetched:
    """A file that was downloaded: its size and the SHA-256 of its bytes."""

    size_bytes: int
    sha256: str


class MissingError(UserError):
    """The server says that the file does not exist, or refuses to return it."""


class CancelledError(Exception):
    """This download was stopped because another one failed."""


class _TransientError(Exception):
    def __init__(self, message: str, pause_secs: float = 0.0):
        super().__init__(message)
        self.pause_secs = pause_secs


class Downloader:
    """Downloads files for one purpose; its methods may be called from several threads.

    `purpose` is part of the User-Agent. `retry` has the number of requests after the first, and the
    waits between them. `on_bytes` is called with the number of bytes received.
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
        """Download `url` to `path`, which appears only when complete and checked.

        Raises:
            MissingError: the file does not exist.
            CancelledError: `cancel` was called.
        """
        partial = path.with_name(f".{path.name}.part")

        def whole() -> Fetched:
            fetched, error = _verify(partial, self._receive(url, partial))
            if error:
                raise _TransientError(f"the data is damaged: {error}")
            return fetched

        try:
            fetched = self._request_patiently(url, whole)
            with open(partial, "rb") as file:
                os.fsync(file.fileno())
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)
        return fetched

    def head_and_tail(self, url: str, count: int) -> tuple[int, bytes, bytes]:
        """Return a file's size, its first `count` bytes and its last `count` bytes."""

        def part(asked: str) -> tuple[int, bytes]:
            with self._request(url, {"Range": f"bytes={asked}"}) as response:
                given = response.headers.get("Content-Range", "")
                size = re.fullmatch(r"bytes [\d*-]*/(\d+)", given)
                if response.status_code == 416 and size and size[1] == "0":
                    return 0, b""
                if response.status_code != 206 or not size:
                    raise UserError(
                        f"{hide_secrets(url)}: the server does not return parts of files: download "
                        "the file and give its path"
                    )
                return int(size[1]), response.raw.read(count, decode_content=False)

        size, head = self._request_patiently(url, lambda: part(f"0-{count - 1}"))
        tail = self._request_patiently(url, lambda: part(f"-{count}"))[1] if size else b""
        return size, head, tail

    def _request_patiently(self, url: str, request: Callable[[], _T]) -> _T:
        retry, wait_secs = self._retry, 0.0
        while not self._cancelled.wait(wait_secs):
            try:
                return request()
            except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema) as error:
                reason = SECRETS.sub("", str(error))
                raise UserError(
                    f"{hide_secrets(url)} is not a URL to download from ({reason})"
                ) from error
            except (_TransientError, requests.RequestException, urllib3.exceptions.HTTPError) as e:
                retry, wait_secs = self._plan_retry(url, e, retry)
        raise CancelledError

    def _plan_retry(self, url: str, error: Exception, retry: Retry) -> tuple[Retry, float]:
        """Return the remaining retries after `error`, and the seconds to wait."""
        reason = SECRETS.sub("", str([*causes(error)][-1])) or type(error).__name__
        shown = hide_secrets(url)
        try:
            retry = retry.increment("GET", url, error=error)
        except urllib3.exceptions.MaxRetryError:
            raise UserError(
                f"cannot download {shown} ({reason}; {len(retry.history) + 1} attempts): check the "
                "network or try later; the same command then continues with this file"
            ) from error
        asked_secs = getattr(error, "pause_secs", 0.0)
        if asked_secs > LONGEST_PAUSE_SECS:
            raise UserError(
                f"{shown}: the server is busy and asks to wait {asked_secs:,.0f} s: run the same "
                "command after that"
            )
        wait_secs = asked_secs + retry.get_backoff_time()
        if wait_secs >= 1:
            say("download", f"{shown}: {reason}; trying again in {wait_secs:.0f} s")
        return retry, wait_secs

    @contextlib.contextmanager
    def _request(self, url: str, headers: Mapping[str, str]) -> Iterator[requests.Response]:
        """Send a GET request; raise an error for a status without data."""
        # Request the bytes as stored, because offsets and checksums refer to these.
        shown = hide_secrets(url)
        own = {"User-Agent": self.user_agent, "Accept-Encoding": "identity"}
        with requests.get(
            url, headers={**own, **headers}, stream=True, timeout=TIMEOUTS_SECS
        ) as response:
            status = response.status_code
            if status in TRANSIENT_STATUS:
                pause_secs = self._retry.get_retry_after(response.raw) or 0.0
                raise _TransientError(f"HTTP {status}", pause_secs)
            if status in MISSING_STATUS:
                raise MissingError(f"{shown} does not exist on the server (HTTP {status})")
            if status not in (200, 206, 416):
                raise UserError(f"{shown}: the server answers HTTP {status} ({response.reason})")
            yield response

    def _receive(self, url: str, path: Path) -> Mapping[str, str]:
        """Write a server's response to a file; return its headers by lower-case name.

        urllib3 raises an error if there are fewer bytes than the server stated.
        """
        with self._request(url, {}) as response, open(path, "wb") as file:
            while block := response.raw.read1(CHUNK_BYTES, decode_content=False):
                file.write(block)
                self._on_bytes(len(block))
                if self._cancelled.is_set():
                    raise CancelledError
            return {name.lower(): value for name, value in response.headers.items()}


def read_digests(headers: Mapping[str, str]) -> list[tuple[str, str, bytes]]:
    """Return header, algorithm and value of each digest of a file; `headers` are in lower case."""
    texts = [("content-md5", "md5", headers.get("content-md5", ""))]
    for algorithm, text in re.findall(r"(md5|crc32c)=([^, ]*)", headers.get("x-goog-hash", "")):
        texts.append(("x-goog-hash", algorithm, text))
    digests = []
    for header, algorithm, text in texts:
        with contextlib.suppress(binascii.Error):
            if digest := base64.b64decode(text, validate=True):
                digests.append((header, algorithm, digest))
    return digests


def _verify(path: Path, headers: Mapping[str, str]) -> tuple[Fetched, str]:
    """Measure and hash a file; also return how it contradicts the headers, or "" if it agrees.

    If no header states a digest, a gzip file must decompress to its end.
    """
    stated = read_digests(headers)
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
            return fetched, f"{header} states another {algorithm}"
    if not stated and is_gzip:
        try:
            with gzip.open(path) as file:
                while file.read(1 << 20):
                    pass
        except (OSError, EOFError, zlib.error) as error:
            return fetched, f"its gzip data is damaged: {error}"
    return fetched, ""
