"""Downloads a few WET or WARC files of a Common Crawl dump, spread over the whole dump."""

import re
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, Literal, get_args

from urllib3 import Retry

from mswitch.pipelines.crawl.decompression import DamagedStreamError, DecompressedStream, open_input
from mswitch.pipelines.download import RETRY, CancelledError, Downloader, Fetched, MissingError
from mswitch.pipelines.errors import UserError
from mswitch.pipelines.outputs import file_sha256, read_manifest, stage_output
from mswitch.pipelines.progress import INTERVAL_SECS, Progress, say
from mswitch.pipelines.samples.gflanguages import STAGE

BASE_URL = "https://data.commoncrawl.org"
MAX_CONCURRENCY = 8
#: Maximum bytes of a list of files; a dump lists about 90,000 files in 13 MB.
MAX_LIST_BYTES = 256 << 20

CrawlFormat = Literal["wet", "warc"]

_DUMP = re.compile(r"CC-MAIN-\d{4}-(\d{2}|\d{4})|CC-MAIN-\d{4}")
#: Paths that a list may contain. They do not leave their directory, and are not hidden.
_PATH = re.compile(r"crawl-data(/[A-Za-z0-9_][A-Za-z0-9_.-]*)+\.gz")


def write_sample(
    out: str | Path,
    dump: str,
    segments: int,
    *,
    format: CrawlFormat = "wet",
    base_url: str = BASE_URL,
    concurrency: int = 2,
    retry: Retry = RETRY,
) -> dict[str, Any]:
    """Download `segments` files of a dump unchanged, to `out`/wet or `out`/warc.

    The dump's list is cut into `segments` equal parts, and the middle file of each is taken; the
    choice depends on nothing else. A WET file has about 150 MB, a WARC file about 1 GB. A stopped
    run continues with its unfinished files.

    Args:
        out: the directory to make.
        dump: name of the dump, such as CC-MAIN-2024-10.
        segments: number of files.
        format: WET (text) or WARC (HTML).
        base_url: address of the dumps; a mirror has the same paths.
        concurrency: parallel downloads; few, since everybody shares the server.
        retry: number of requests for a file after the first, and the waits between them.
    """
    if not _DUMP.fullmatch(dump):
        raise UserError(f"--dump {dump} is not the name of a dump: give one like CC-MAIN-2024-10")
    if format not in get_args(CrawlFormat):
        raise UserError(f"--format {format}: choose {' or '.join(get_args(CrawlFormat))}")
    if not 1 <= concurrency <= MAX_CONCURRENCY:
        raise UserError(f"--concurrency {concurrency}: give 1 to {MAX_CONCURRENCY}")
    if segments < 1:
        raise UserError(f"--segments {segments}: give at least 1")
    base_url = base_url.rstrip("/")
    if not re.match(r"https?://[^/]", base_url):
        raise UserError(f"--base-url {base_url}: give an http:// or https:// address")
    config = {
        "sample": "common-crawl",
        "dump": dump,
        "format": format,
        "segments": segments,
        "base_url": base_url,
    }
    with stage_output(out, stage=STAGE, config=config) as staged:
        if staged.complete:
            say(STAGE, f"already complete: {out}, nothing to do")
            return read_summary(out, reused=True)
        meter = _Meter()
        downloader = Downloader("sample common-crawl", retry, meter.add)
        list_file = staged.directory / f".{format}.paths.gz"
        listed = _fetch_list(downloader, base_url, dump, format, list_file)
        chosen = choose(listed, segments, dump)
        directory = staged.directory / format
        directory.mkdir(exist_ok=True)
        files = _fetch_all(downloader, base_url, chosen, directory, concurrency)
        list_file.unlink()
        staged.publish(
            {
                "listed": len(listed),
                "files": [
                    {
                        "path": f"{format}/{path.rpartition('/')[2]}",
                        "crawl_path": path,
                        "bytes": fetched.size_bytes,
                        "sha256": fetched.sha256,
                    }
                    for path, fetched in zip(chosen, files, strict=True)
                ],
            }
        )
    result = read_summary(out, reused=False)
    say(STAGE, f"{result['files']} of {result['listed']:,} {format} files of {dump} in {out}")
    return result


def read_summary(out: str | Path, *, reused: bool) -> dict[str, Any]:
    """Return the summary of the stage, from its published manifest."""
    manifest = read_manifest(out, STAGE)
    return {
        "stage": STAGE,
        "out": str(out),
        "reused": reused,
        "files": len(manifest["files"]),
        "listed": manifest["listed"],
        "bytes": sum(file["bytes"] for file in manifest["files"]),
    }


def choose(listed: Sequence[str], count: int, dump: str) -> list[str]:
    """Choose the middle path of each of `count` equal parts of the list."""
    if count > len(listed):
        raise UserError(
            f"--segments {count}: the dump {dump} has only {len(listed):,} files: give at most that"
        )
    chosen = [listed[(2 * number + 1) * len(listed) // (2 * count)] for number in range(count)]
    if len({path.rpartition("/")[2] for path in chosen}) < count:
        raise UserError(f"two files chosen from {dump} have the same name: change --segments")
    return chosen


def _fetch_list(
    downloader: Downloader, base_url: str, dump: str, form: str, path: Path
) -> list[str]:
    url = f"{base_url}/crawl-data/{dump}/{form}.paths.gz"
    try:
        if not path.exists():
            downloader.fetch(url, path)
    except MissingError as error:
        raise UserError(
            f"there is no dump {dump} with {form} files ({error}): "
            "Common Crawl's site lists the names, such as CC-MAIN-2024-10"
        ) from error
    try:
        with open_input(str(path)) as file:
            content = DecompressedStream(file, "gzip").buffered().read(MAX_LIST_BYTES + 1)
        if len(content) > MAX_LIST_BYTES:
            raise UserError(f"{url} is too large for a list of files")
        listed = content.decode("ascii").split()
    except (DamagedStreamError, UnicodeDecodeError) as error:
        path.unlink()
        raise UserError(f"{url} is not a list of files ({error}): check --base-url") from error
    for name in listed:
        if not _PATH.fullmatch(name):
            path.unlink()
            raise UserError(
                f"{url} names {name[:80]!r}, which is not a path of a crawl: check --base-url"
            )
    return listed


def _fetch_all(
    downloader: Downloader,
    base_url: str,
    paths: Sequence[str],
    directory: Path,
    concurrency: int,
) -> list[Fetched]:
    """Download files in parallel; the first error ends all downloads."""

    def fetch(path: str) -> Fetched:
        final = directory / path.rpartition("/")[2]
        if final.exists():  # an earlier run downloaded and checked this file
            return Fetched(final.stat().st_size, file_sha256(final))
        try:
            return downloader.fetch(f"{base_url}/{path}", final)
        except Exception:
            downloader.cancel()
            raise

    progress = Progress(STAGE, "files", len(paths), "files")
    with ThreadPoolExecutor(concurrency) as pool:
        futures = [pool.submit(fetch, path) for path in paths]
        for future in futures:
            future.add_done_callback(lambda done: None if done.exception() else progress.add())
        try:
            wait(futures)
        except BaseException:
            downloader.cancel()
            raise
    errors = [future.exception() for future in futures]
    for error in errors:
        if error and not isinstance(error, CancelledError):
            raise error
    return [future.result() for future in futures]


class _Meter:
    """Prints every ten seconds how much was downloaded; the total is unknown in advance."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._start = time.monotonic()
        self._next = self._start + INTERVAL_SECS
        self._bytes = 0

    def add(self, count: int) -> None:
        """Count bytes; called from all threads."""
        with self._lock:
            self._bytes += count
            now = time.monotonic()
            if now >= self._next:
                self._next = now + INTERVAL_SECS
                rate = self._bytes / (now - self._start) / 1e6
                say(STAGE, f"download: {self._bytes / 1e6:,.0f} MB · {rate:,.1f} MB/s")
