"""Which pages must not be used: URL blocklists, and what their publishers reserve.

Blocklists are given by the user; none are shipped. Opt-outs are read where the crawl has them: a
WARC response has its headers and its HTML, a WET record has neither.
"""

import dataclasses
import functools
import hashlib
import io
import re
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from pipelines import storage
from pipelines.corpus.list_files import open_list, remote_files
from pipelines.crawl.html_metas import find_metas
from pipelines.crawl.html_tokens import Markup
from pipelines.errors import UserError

#: File names of the lists in a directory laid out like the University of Toulouse's.
_DOMAINS, _URLS = "domains", "urls"


@dataclasses.dataclass(frozen=True)
class Blocklist:
    """Domains and URL prefixes that are blocked. Memory: 9 bytes an entry.

    Attributes:
        names: the lists, for the report.
        hashes: uint64 [entries], increasing. Two entries of millions share a hash with
            probability 1e-6.
        lists: uint8 [entries] the list each entry is from.
    """

    names: tuple[str, ...]
    hashes: np.ndarray
    lists: np.ndarray

    def match(self, url: str) -> str | None:
        """Return the list that blocks `url`: by its domain, a parent domain or a path prefix."""
        if not len(self.hashes):
            return None
        keys = np.array([_hash(entry) for entry in _entries_that_block(url)], np.uint64)
        place = np.minimum(np.searchsorted(self.hashes, keys), len(self.hashes) - 1)
        hits = np.flatnonzero(self.hashes[place] == keys)
        return self.names[self.lists[place[hits[0]]]] if len(hits) else None

    @functools.cached_property
    def digest(self) -> str:
        """A hash of all entries, for the identity of a build."""
        sha256 = hashlib.sha256(repr(self.names).encode())
        sha256.update(self.hashes.astype("<u8").tobytes() + self.lists.tobytes())
        return sha256.hexdigest()


def load_blocklist(paths: Sequence[str | Path]) -> Blocklist:
    """Read blocklists.

    Args:
        paths: text files with a domain a line (`#` starts a comment; a domain blocks those below
            it), or directories with a directory a category, each with a file `domains` and
            possibly `urls` (lines of host/path, which block everything that starts so). A list
            is named after its file, or after its category. Either may be a URL, such as
            gs://bucket/ut1.

    Raises:
        UserError: a path cannot be read or is no list.
    """
    entries: dict[int, int] = {}
    names: list[str] = []
    for name, file, whole_hosts in _list_files(paths):
        if name not in names:
            names.append(name)
        for number, entry in _read_entries(file):
            host, slash, path = entry.partition("/")
            if whole_hosts and (slash or " " in entry or "." not in host):
                raise UserError(
                    f"{file}, line {number}: {entry[:80]!r} is no domain: give one domain a line"
                )
            key = _hash(f"{_canonical_host(host)}{slash}{path}")
            entries.setdefault(key, names.index(name))
    if len(names) > 255:
        raise UserError(f"{len(names)} blocklists: give at most 255, or join some")
    hashes = np.array(sorted(entries), np.uint64)
    lists = np.array([entries[key] for key in sorted(entries)], np.uint8)
    return Blocklist(tuple(names), hashes, lists)


def _list_files(paths: Sequence[str | Path]) -> Iterator[tuple[str, str, bool]]:
    """Yield name, file, and whether its entries are domains, not URLs."""
    for path in paths:
        below = _files_below(path)
        if below is None:
            yield Path(path).stem, str(path), True
            continue
        if not below:
            raise UserError(f"{path} has no file called {_DOMAINS} or {_URLS} in it")
        for file in below:
            yield Path(file).parent.name, file, Path(file).name == _DOMAINS


def _files_below(path: str | Path) -> list[str] | None:
    """Return the lists below a directory, in one order wherever it lies; None for a file."""
    kinds = (_DOMAINS, _URLS)
    if not storage.is_remote(path):
        if not Path(path).is_dir():
            return None
        files = sorted(file for kind in kinds for file in Path(path).glob(f"**/{kind}"))
        return [str(file) for file in files]
    # Of https:// nothing can be listed.
    found = {} if storage.is_http(path) else remote_files(str(path).rstrip("/"))
    names = sorted(name.split("/") for name in found)
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


def _canonical_host(host: str) -> str:
    """Return a host in lower case, in ASCII where it can be, without port and `www.`."""
    host = host.lower().rstrip(".").removeprefix("www.")
    if host.isascii():
        return host
    try:
        return host.encode("idna").decode()
    except UnicodeError:
        return host


def _entries_that_block(url: str) -> list[str]:
    """Return every entry that would block `url`: its host and parents, then longer prefixes."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = _canonical_host(parts.hostname or "")
    except ValueError:
        return []
    labels = host.split(".")
    # The longest hosts first; more than ten labels are nobody's domain.
    hosts = [".".join(labels[start:]) for start in range(max(0, len(labels) - 10), len(labels))]
    path = parts.path.strip("/").lower().split("/")[:10]
    prefixes = [f"{host}/{'/'.join(path[:stop])}" for stop in range(1, len(path) + 1) if path[0]]
    return hosts + prefixes


#: What a publisher can reserve, and the names it is known by here.
SIGNALS = ("tdm_reservation", "noai", "noimageai", "noindex")

_ATTRIBUTE = re.compile(
    r"""\b(name|content)\s{0,9}=\s{0,9}(?:"([^"]{0,1000})"|'([^']{0,1000})'|([^\s"'>]{1,1000}))""",
    re.IGNORECASE,
)
#: Robots directives with a colon of their own; any other name before a colon is a robot's.
_DIRECTIVES_WITH_VALUES = ("unavailable_after", "max-snippet", "max-image-preview")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptOutPolicy:
    """Which signals drop a page.

    The defaults are those that speak of this use: `tdm-reservation: 1` (the W3C community group's
    TDM Reservation Protocol: rights under article 4 of EU directive 2019/790 are reserved) and
    `noai`. `noimageai` speaks of images, `noindex` of search results: add them to be stricter.

    Attributes:
        honour: signals among tdm_reservation, noai, noimageai and noindex.
        robots: robots whose own directives count too, besides those addressed to all; ASCII.
    """

    honour: tuple[str, ...] = ("tdm_reservation", "noai")
    robots: tuple[str, ...] = ("ccbot",)

    def __post_init__(self):
        unknown = sorted(set(self.honour) - set(SIGNALS))
        if unknown:
            raise UserError(f"unknown opt-out {unknown[0]!r}: choose among {', '.join(SIGNALS)}")
        for robot in self.robots:
            if not robot.isascii():
                raise UserError(f"robot {robot!r}: names of robots are ASCII")
        # Names of robots have no case, and are looked for in lower case.
        object.__setattr__(self, "robots", tuple(robot.strip().lower() for robot in self.robots))

    def reason(self, headers: Iterable[tuple[str, str]], html: Markup) -> str | None:
        """Return the first honoured signal that a page has, as a reason to drop it, or None."""
        found = opt_out_signals(headers, html, self.robots)
        return next((f"opt_out_{name}" for name in self.honour if name in found), None)


def opt_out_signals(
    headers: Iterable[tuple[str, str]], html: Markup, robots: Sequence[str] = ("ccbot",)
) -> frozenset[str]:
    """Return what a page reserves, among `SIGNALS`.

    Args:
        headers: names and values of the HTTP response; names may repeat.
        html: the page. Its meta tags count wherever they stand, comments included: in doubt the
            publisher is right.
        robots: see `OptOutPolicy`.
    """
    found: set[str] = set()
    for name, value in headers:
        lowered = name.strip().lower()
        if lowered == "x-robots-tag":
            found |= _robots_directives(value, robots)
        elif lowered == "tdm-reservation" and value.strip() == "1":
            found.add("tdm_reservation")
    for tag in find_metas(html, ("robots", "tdm-reservation", *robots)):
        attributes = {
            match[1].lower(): match[2] or match[3] or match[4] or ""
            for match in _ATTRIBUTE.finditer(tag)
        }
        name = attributes.get("name", "").strip().lower()
        content = attributes.get("content", "")
        if name == "robots" or name in robots:
            found |= _robots_directives(content, robots)
        elif name == "tdm-reservation" and content.strip() == "1":
            found.add("tdm_reservation")
    return frozenset(found)


def _robots_directives(value: str, robots: Sequence[str]) -> set[str]:
    """Return the signals in a list of directives, those for other robots left out.

    A robot's name holds for all directives after it: `otherbot: noindex, nofollow`.
    """
    found = set()
    addressed = True
    for part in value.lower().split(","):
        directive = part.strip()
        robot, colon, rest = directive.partition(":")
        if colon and robot.strip() not in _DIRECTIVES_WITH_VALUES:
            addressed = robot.strip() in ("*", *robots)
            directive = rest.strip()
        if addressed:
            found.add("noindex" if directive == "none" else directive)
    return found & set(SIGNALS)
