"""Files by path or URL: local disks, gs:// and s3:// through Beam; https:// and hf:// for reading.

A file that is read is a local file meanwhile. A file that is written is complete as soon as its
name exists: locally by a rename, on an object store because an object appears when its upload ends.
Paths are strings here, since `pathlib` folds the `//` of a URL.
"""

import contextlib
import functools
import json
import os
import re
import shutil
import stat
import tempfile
import threading
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mswitch.pipelines.errors import UserError, is_disk_full

if TYPE_CHECKING:
    from mswitch.pipelines.download import Downloader

#: A URL whose slashes `pathlib` has folded.
_FOLDED = re.compile(r"[a-z][a-z0-9]+:/")
#: User and password of a URL, or its query, which may contain signatures.
SECRETS = re.compile(r"(?<=://)[^/?#\s]*@|[?#][^\s'\")]*")
#: Parallel requests for many small remote objects.
_REQUESTS = 32

_options: dict[str, Any] = {}


class FileStatus(NamedTuple):
    """A file that `match` or `files_below` found.

    Attributes:
        path: its path or URL.
        size_bytes: its size.
        updated: time of the last write, in seconds since 1970.
    """

    path: str
    size_bytes: int
    updated: float


def is_remote(path: str | Path) -> bool:
    """Return whether a path is a URL such as gs://bucket/name."""
    return "://" in str(path) or (isinstance(path, Path) and bool(_FOLDED.match(str(path))))


def is_http(path: str | Path) -> bool:
    """Return whether a path is an http:// or https:// URL, which can only be read."""
    return str(path).startswith(("http://", "https://"))


def hide_secrets(path: str | Path) -> str:
    """Return a path; remove user, password and query from a URL on a web server."""
    return SECRETS.sub("", str(path)) if is_http(path) else str(path)


def get_name(path: str | Path) -> str:
    """Return the last part of a path or URL."""
    path = str(path)
    return os.path.basename(urllib.parse.urlsplit(path).path if is_http(path) else path)


def join(directory: str | Path, *names: str) -> str:
    """Return the path of `names` below `directory`."""
    return "/".join([str(directory).rstrip("/"), *names])


def exists(path: str | Path) -> bool:
    """Return whether there is a file (or, locally, a directory) of this name."""
    return file_systems(path).exists(str(path)) if is_remote(path) else os.path.exists(path)


def list_names(directory: str | Path) -> set[str]:
    """Return the names of the files directly in `directory`; empty if it is not a directory."""
    if is_remote(directory):
        return {os.path.basename(status.path) for status in match(join(directory, "*"))}
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        return set(os.listdir(directory))
    return set()


def match(pattern: str, limit: int | None = None) -> list[FileStatus]:
    """Return the remote files that match `pattern`, a URL with *, ** (any depth) and ?.

    `limit` is a number of files that are enough.
    """
    systems = file_systems(pattern)
    try:
        [result] = systems.match([pattern], [limit])
    except Exception as error:  # each file system has its own errors
        raise UserError(
            f"cannot list {pattern}: {find_innermost_reason(error)}; check its name and your access"
        ) from error
    return [
        FileStatus(file.path, file.size_in_bytes, file.last_updated_in_seconds or 0.0)
        for file in result.metadata_list
    ]


def find(directory: str | Path, name: str) -> list[FileStatus]:
    """Return the files named `name` anywhere below `directory`."""
    if not is_remote(directory) and not os.path.isdir(directory):
        raise UserError(f"{directory} is not a directory: check the path")
    return list(files_below(directory, name).values())


def make_directory(path: str | Path) -> None:
    """Create a local directory with its parents; object stores need none."""
    if not is_remote(path):
        os.makedirs(path, exist_ok=True)


@contextlib.contextmanager
def fetch(path: str | Path) -> Iterator[Path]:
    """Yield a local file: the file itself, or a copy that exists while the body runs."""
    if not is_remote(path):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="mswitch-") as directory:
        copy = Path(directory) / "copy"
        if is_http(path):
            _make_downloader().fetch(str(path), copy)
        elif str(path).startswith("hf://"):
            from mswitch.pipelines import hub

            copy = hub.fetch(str(path), directory)
        else:
            with _open_remote(str(path)) as source, open(copy, "wb") as file:
                shutil.copyfileobj(source, file, 1 << 20)
        yield copy


def head_and_tail(path: str | Path, count: int) -> tuple[int, bytes, bytes]:
    """Return a file's size and its first and last `count` bytes, without reading the rest."""
    if is_http(path):
        return _make_downloader().head_and_tail(str(path), count)
    with _open_remote(str(path)) if is_remote(path) else open(path, "rb") as file:
        head = file.read(count)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - count))
        return size, head, file.read(count)


@contextlib.contextmanager
def publish(path: str | Path, *, sync: bool = False) -> Iterator[Path]:
    """Yield a local path to write to. If the body succeeds, the complete file becomes `path`.

    A local file's directory must exist; `sync` forces a local file to disk before its name exists.
    """
    if is_remote(path):
        with tempfile.TemporaryDirectory(prefix="mswitch-") as directory:
            copy = Path(directory) / os.path.basename(str(path))
            yield copy
            with open(copy, "rb") as file, _create_remote(str(path)) as target:
                shutil.copyfileobj(file, target, 1 << 20)
        return
    final = Path(path)
    temporary = final.with_name(f".{final.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    try:
        yield temporary
        if sync:
            with open(temporary, "rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, final)
    except OSError as error:
        if is_disk_full(error):  # an error of a write does not name the file
            error.filename = error.filename or str(final)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_temporaries(directory: str | Path) -> None:
    """Remove temporary files of killed writers (`publish`) from a local directory."""
    for leftover in Path(directory).rglob(".*.tmp"):
        leftover.unlink()


def read_bytes(path: str | Path) -> bytes:
    """Read a whole file."""
    if not is_remote(path):
        return Path(path).read_bytes()
    with _open_remote(str(path)) as file:
        return file.read()


def read_range(path: str | Path, start: int, stop: int) -> bytes:
    """Read bytes `start` to `stop` of a file; of a remote file, request only these bytes.

    Several threads may read at a time. If the file ends before `stop`, fewer bytes are returned.
    """
    if stop <= start:
        return b""
    try:
        if not is_remote(path):
            with open(path, "rb") as file:
                return os.pread(file.fileno(), stop - start, start)
        if str(path).startswith("gs://"):
            return _read_google_range(str(path), start, stop)
        if str(path).startswith("s3://"):
            return _read_amazon_range(str(path), start, stop)
        with _open_remote(str(path)) as file:
            file.seek(start)
            return file.read(stop - start)
    except UserError:
        raise
    except Exception as error:  # each file system has its own errors
        raise UserError(
            f"cannot read bytes {start} to {stop} of {path}: {find_innermost_reason(error)}"
        ) from error


def files_below(directory: str | Path, called: str | None = None) -> dict[str, FileStatus]:
    """Return files below `directory` by relative path; with `called`, only files of this name."""
    if is_remote(directory):
        prefix = len(join(directory, ""))
        matches = match(join(directory, "**"))
        return {
            file.path[prefix:]: file
            for file in matches
            if called in (None, os.path.basename(file.path))
        }
    files = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            if called not in (None, name):
                continue
            path = os.path.join(folder, name)
            # Another process may replace the directory meanwhile.
            with contextlib.suppress(FileNotFoundError):
                info = os.stat(path)
                if not stat.S_ISREG(info.st_mode):
                    continue  # reading a pipe would wait for a writer
                status = FileStatus(path, info.st_size, info.st_mtime)
                files[os.path.relpath(path, directory)] = status
    return files


def file_sizes(directory: str | Path) -> dict[str, int]:
    """Return the sizes of all files below `directory` by relative path."""
    return {path: file.size_bytes for path, file in files_below(directory).items()}


def read_json(path: str | Path) -> Any:
    """Read a JSON file."""
    return json.loads(read_bytes(path))


def read_json_files(paths: Sequence[str]) -> Iterator[Any]:
    """Yield the contents of many JSON files in order; read remote files in parallel."""
    if not any(map(is_remote, paths)):
        yield from map(read_json, paths)
        return
    with ThreadPoolExecutor(_REQUESTS) as pool:
        # Read files in batches, because results wait in memory.
        for start in range(0, len(paths), 8 * _REQUESTS):
            yield from pool.map(read_json, paths[start : start + 8 * _REQUESTS])


def write_json(path: str | Path, value: Any, *, scratch: bool = False) -> None:
    """Write a JSON file that appears only when complete; equal values have equal bytes.

    A `scratch` file is a compact working file; other files are readable and forced to disk.
    """
    text = json.dumps(value, sort_keys=True) if scratch else json_text(value)
    with publish(path, sync=not scratch) as temporary:
        temporary.write_bytes(text.encode())


def json_text(value: Any) -> str:
    """Serialise `value` so that people can read it; equal values have equal text."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def remove_tree(directory: str | Path) -> None:
    """Remove a directory and everything below it; it need not exist."""
    if is_remote(directory):
        # With a final slash, Beam treats the path as a directory and deletes its files in batches.
        file_systems(directory).delete([join(directory, "")])
    else:
        shutil.rmtree(directory, ignore_errors=True)


def remove(paths: Iterable[str]) -> None:
    """Remove files."""
    files = list(paths)
    if remote := [path for path in files if is_remote(path)]:
        file_systems(remote[0]).delete(remote)
    for path in files:
        if not is_remote(path):
            os.unlink(path)


def _make_downloader() -> "Downloader":
    from mswitch.pipelines.download import Downloader

    return Downloader("corpus input")


def _open_remote(path: str) -> Any:
    from apache_beam.io.filesystem import CompressionTypes

    # Do not let Beam decompress files by their suffix.
    return file_systems(path).open(path, compression_type=CompressionTypes.UNCOMPRESSED)


def _read_google_range(url: str, start: int, stop: int) -> bytes:
    from google.api_core.exceptions import RequestRangeNotSatisfiable

    bucket, name = google_bucket(url)
    try:
        # Google sends the checksum of the whole object.
        return bucket.blob(name).download_as_bytes(
            start=start, end=stop - 1, raw_download=True, checksum=None
        )
    except RequestRangeNotSatisfiable:
        return b""


def _read_amazon_range(url: str, start: int, stop: int) -> bytes:
    from botocore.exceptions import ClientError

    client, place = amazon_object(url)
    try:
        return client.get_object(**place, Range=f"bytes={start}-{stop - 1}")["Body"].read()
    except ClientError as error:
        if error.response["Error"]["Code"] != "InvalidRange":
            raise
        return b""


# Clients use the credentials from Beam's options. Each process has its own clients, since
# connections cannot be forked. Beam's own readers request 16 MB at a time (gs://) or the rest of an
# object (s3://).


@functools.lru_cache(maxsize=1)
def google_client(_process: int) -> Any:
    """Return Google's client of gs:// for the process with this id."""
    from apache_beam.io.gcp.gcsio import GcsIO
    from apache_beam.options.pipeline_options import PipelineOptions

    return GcsIO(pipeline_options=PipelineOptions.from_dictionary(_options)).client


@functools.lru_cache(maxsize=1)
def amazon_client(_process: int) -> Any:
    """Return the current process's client for Amazon S3; the cache's key is the process id."""
    from apache_beam.io.aws.s3io import S3IO
    from apache_beam.options.pipeline_options import PipelineOptions

    return S3IO(options=PipelineOptions.from_dictionary(_options)).client.client


def google_bucket(url: str) -> tuple[Any, str]:
    """Return the bucket of a gs:// URL, and the object's name."""
    bucket, _, name = url.removeprefix("gs://").partition("/")
    return google_client(os.getpid()).bucket(bucket), name


def amazon_object(url: str) -> tuple[Any, dict[str, str]]:
    """Return Amazon's client, and its arguments for the object of an s3:// URL."""
    bucket, _, name = url.removeprefix("s3://").partition("/")
    return amazon_client(os.getpid()), {"Bucket": bucket, "Key": name}


def _create_remote(path: str) -> Any:
    from apache_beam.io.filesystem import CompressionTypes

    # Browsers show a page from a bucket only if it has this type.
    kind = "text/html" if path.endswith(".html") else "application/octet-stream"
    systems = file_systems(path)
    return systems.create(path, kind, compression_type=CompressionTypes.UNCOMPRESSED)


def use_options(options: Mapping[str, Any]) -> None:
    """Access remote files with these Beam options, such as those for a service account.

    `options` is a result of `PipelineOptions.get_all_options`.
    """
    _options.update(options)
    _apply_options.cache_clear()
    google_client.cache_clear()
    amazon_client.cache_clear()


def used_options() -> dict[str, Any]:
    """Return the options given to `use_options`, so that a worker process can use them too."""
    return dict(_options)


@functools.cache
def _apply_options() -> None:
    from apache_beam.io.filesystems import FileSystems
    from apache_beam.options.pipeline_options import PipelineOptions

    # Outside a pipeline, Beam has no options, but s3:// needs options.
    if _options or FileSystems._pipeline_options is None:
        FileSystems.set_options(PipelineOptions.from_dictionary(_options))


def file_systems(path: str | Path) -> Any:
    """Return Beam's file systems; import Beam only now, since this takes seconds."""
    from apache_beam.io.filesystems import FileSystems

    _apply_options()
    try:
        FileSystems.get_filesystem(str(path))
    except ValueError as error:
        scheme = str(path).partition("://")[0]
        extra = {"gs": "mswitch[gcp]", "s3": "mswitch[aws]"}.get(scheme)
        fix = f"pip install '{extra}'" if extra else "give a path, a gs:// or an s3:// URL"
        raise UserError(f"{path}: {scheme}:// cannot be reached: {fix}") from error
    return FileSystems


def find_innermost_reason(error: BaseException) -> str:
    """Return the innermost cause in one line; Beam's errors have dicts of causes, maybe nested."""
    details = getattr(error, "exception_details", None)
    while details:
        error = next(iter(details.values()))
        details = getattr(error, "exception_details", None)
    return " ".join(str(error).split())
