"""URL blocklists. The user provides them; mswitch contains none."""

import dataclasses
import functools
import hashlib
import io
import re
import urllib.parse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar

import idna
import numpy as np

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.rules.base import ListRule
from mswitch.pipelines.corpus.rules.list_files import list_remote_files, open_list
from mswitch.pipelines.errors import UserError

#: File names in a directory laid out like the University of Toulouse's lists.
_DOMAINS, _URLS = "domains", "urls"
_SCHEME = re.compile(r"^https?://")


@dataclasses.dataclass(frozen=True)
class BlockedUrls:
    """Set of blocked domains, URL prefixes and exact URLs (with a query): 9 bytes per entry.

    Attributes:
        names: names of the lists, for the report.
        hashes: uint64 [entries], increasing. The probability that any two of millions of entries
            share a hash is 1e-6.
        lists: uint8 [entries] index of each entry's list.
    """

    names: tuple[str, ...]
    hashes: np.ndarray
    lists: np.ndarray

    def match(self, url: str) -> str | None:
        """Return the list that blocks `url` by domain, parent domain, prefix or exact URL."""
        if not len(self.hashes):
            return None
        keys = np.array([_hash(entry) for entry in _make_blocking_keys(url)], np.uint64)
        place = np.minimum(np.searchsorted(self.hashes, keys), len(self.hashes) - 1)
        hits = np.flatnonzero(self.hashes[place] == keys)
        return self.names[self.lists[place[hits[0]]]] if len(hits) else None

    @functools.cached_property
    def digest(self) -> str:
        """Hash of all entries of the blocklists; it is part of a build's identity."""
        sha256 = hashlib.sha256(repr(self.names).encode())
        sha256.update(self.hashes.astype("<u8").tobytes() + self.lists.tobytes())
        return sha256.hexdigest()


def load_blocklist(paths: Sequence[str | Path]) -> BlockedUrls:
    """Read blocklists.

    Args:
        paths: files or directories, by path or URL, such as gs://bucket/ut1. A text file has a
            domain per line, which blocks its subdomains too; `#` starts a comment. A directory has
            a directory for each category, with a file `domains` and possibly a file `urls`. A line
            host/path of `urls` also blocks everything below it; host/path?query blocks only this
            URL; scheme and port make no difference. A list has the name of its file or category.
    """
    entries: dict[int, int] = {}
    names: list[str] = []
    for name, file, whole_hosts in _list_files(paths):
        if name not in names:
            names.append(name)
        number, shown = 0, storage.hide_secrets(file)
        for number, entry in _read_entries(file):
            if whole_hosts and (re.search("[/: ]", entry) or "." not in entry):
                raise UserError(
                    f"{shown}, line {number}: {entry[:80]!r} is not a domain: give one domain per "
                    "line"
                )
            prefix, _, query = _SCHEME.sub("", entry).partition("?")
            host, slash, path = prefix.partition("/")
            host = canonical_host(host.partition(":")[0])
            if not host:
                raise UserError(f"{shown}, line {number}: {entry[:80]!r} has no host: remove it")
            key = (
                _make_exact_key(host, path, query) if query else f"{host}{slash}{path}".rstrip("/")
            )
            entries.setdefault(_hash(key), names.index(name))
        # Published directories contain empty blocklists, so refuse only an empty file that the user
        # gave.
        if not number and file in map(str, paths):
            raise UserError(f"the blocklist {shown} has no entry: give one domain per line")
    if len(names) > 255:
        raise UserError(f"{len(names)} blocklists: give at most 255, or join some")
    hashes = np.array(sorted(entries), np.uint64)
    lists = np.array([entries[key] for key in sorted(entries)], np.uint8)
    return BlockedUrls(tuple(names), hashes, lists)


def _list_files(paths: Sequence[str | Path]) -> Iterator[tuple[str, str, bool]]:
    """Yield name and file of each list, and whether it contains domains instead of URLs."""
    for path in paths:
        below = _find_lists(path)
        if below is None:
            yield Path(storage.get_name(path)).stem, str(path), True
            continue
        if not below:
            raise UserError(f"{path} has no file {_DOMAINS} or {_URLS}: give another directory")
        for file in below:
            yield Path(file).parent.name, file, Path(file).name == _DOMAINS


def _find_lists(path: str | Path) -> list[str] | None:
    """Return the blocklist files below a directory (path or URL) in path order; None for a file."""
    kinds = (_DOMAINS, _URLS)
    if not storage.is_remote(path):
        if not Path(path).is_dir():
            return None
        return [str(file) for file in sorted(Path(path).glob("**/*")) if file.name in kinds]
    # Files at https:// URLs cannot be listed.
    sizes = {} if storage.is_http(path) else list_remote_files(str(path))
    names = sorted(name.split("/") for name in sizes)
    return [storage.join(path, *name) for name in names if name[-1] in kinds] if names else None


def _read_entries(file: str) -> Iterator[tuple[int, str]]:
    with open_list(file, "the blocklist") as opened:
        lines = io.TextIOWrapper(opened, encoding="utf-8", errors="replace")
        for number, line in enumerate(lines, 1):
            entry = line.partition("#")[0].strip().lower()
            if entry:
                yield number, entry


def _hash(entry: str) -> int:
    digest = hashlib.blake2b(entry.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def canonical_host(host: str) -> str:
    """Return a host in lower case and (if possible) ASCII, without trailing dots and `www.`."""
    host = host.lower().rstrip(".").removeprefix("www.")
    if host.isascii():
        return host
    try:
        return idna.encode(host, uts46=True).decode()
    except UnicodeError:  # idna's errors are subclasses of this
        return host


def _make_exact_key(host: str, path: str, query: str) -> str:
    """Return the key of a URL with a query; unlike other keys, it begins with a question mark."""
    return f"?{host}/{path.strip('/')}?{query}".lower()


def split_url(url: str) -> urllib.parse.SplitResult:
    """Split a URL, which may lack its scheme."""
    return urllib.parse.urlsplit(url if "://" in url else f"//{url}")


def list_hosts(url: str) -> list[str]:
    """Return the host of `url` and its parents, the longest first; empty without a host."""
    try:
        host = canonical_host(split_url(url).hostname or "")
    except ValueError:
        return []
    labels = host.split(".")
    # Use only the last ten labels, because no listed domain has more.
    return [".".join(labels[start:]) for start in range(max(0, len(labels) - 10), len(labels))]


def _make_blocking_keys(url: str) -> list[str]:
    """Return the key of every entry that would block `url`."""
    if not (hosts := list_hosts(url)):
        return []
    host, parts = hosts[0], split_url(url)
    path = parts.path.strip("/").lower().split("/")[:10]
    prefixes = [f"{host}/{'/'.join(path[:stop])}" for stop in range(1, len(path) + 1) if path[0]]
    exact = [_make_exact_key(host, parts.path, parts.query)] if parts.query else []
    return hosts + prefixes + exact


@dataclasses.dataclass(frozen=True)
class Blocklist(ListRule):
    """Drops pages by domain, URL prefix or URL; archive records of blocked pages are not read.

    Attributes:
        blocklists: files of domains, or directories with a directory for each category, by path or
            URL; see `load_blocklist`.
    """

    name: ClassVar[str] = "blocklist"
    is_stage: ClassVar[bool] = False
    blocklists: tuple[str, ...] = ()

    def settings(self) -> dict[str, Any]:
        """Return a hash of all entries of the blocklists."""
        entries = load_blocklist(self.blocklists).digest if self.blocklists else None
        return {"blocklists": entries}

    def load(self) -> BlockedUrls:
        """Read the entries of the blocklists."""
        return load_blocklist(self.blocklists)

    def url_reason(self, url: str) -> str | None:
        return self.loaded.match(url)
