"""Pages and sites removed from a corpus (by `removal`), as keyed hashes."""

import dataclasses
import functools
import hashlib
import hmac
import json
import os
import urllib.parse

from mswitch.pipelines import storage
from mswitch.pipelines.corpus.fingerprints import fingerprint
from mswitch.pipelines.corpus.rules.blocklist import canonical_host, list_hosts, split_url
from mswitch.pipelines.corpus.url_normalization import normalize_url
from mswitch.pipelines.errors import UserError

REMOVALS, KEY = "removals", "key"
#: Path and SHA-256 of the record of each removal.
Records = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True)
class Removed:
    """Removed pages and sites.

    Attributes:
        key: secret; without it nobody can test a guess of a URL.
        hashes: `keyed_hash` of each name.
        sites: whether any of the names is a site.
    """

    key: bytes
    hashes: frozenset[str]
    sites: bool

    def match(self, url: str, page_id: str = "") -> set[str]:
        """Return the hashes that match a page or document by its URL, its id or its sites."""
        names = {*name_url(url), *([name_page(page_id)] if page_id else [])}
        if self.sites:
            names.update(name_site(host) for host in list_hosts(url) if "." in host)
        return {keyed_hash(self.key, name) for name in names} & self.hashes


def keyed_hash(key: bytes, name: str) -> str:
    """Return 128 bits of HMAC-SHA256 in hexadecimal."""
    return hmac.digest(key, name.encode("utf-8", "replace"), "sha256")[:16].hex()


def make_probe(key: bytes) -> str:
    """Return a hash that shows whether a removal's record was made with this key."""
    return keyed_hash(key, "key")


def name_page(page_id: str) -> str:
    """Return the name of a page, for hashing."""
    return f"page:{page_id}"


def name_url(url: str) -> list[str]:
    """Return a page's identifiers from its URL: as given, and with a canonical host.

    Ids of documents keep the host's case, port and user, although these do not change the page.
    """
    forms = [normalize_url(url)]
    try:
        parts = split_url(url)
        rest = urllib.parse.urlunsplit(("", "", parts.path, parts.query, parts.fragment))
        forms.append(normalize_url(canonical_host(parts.hostname or "") + rest))
    except ValueError:
        pass
    return [name_page(fingerprint(form).hex()) for form in dict.fromkeys(forms) if form]


def name_site(host: str) -> str:
    """Return the name of a site, for hashing."""
    return f"site:{host}"


def read_sample_urls(path: str) -> list[str]:
    """Return the URL in each line of a file of samples."""
    try:
        return [json.loads(line).get("url", "") for line in storage.read_bytes(path).splitlines()]
    except (ValueError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged (not JSON Lines): restore it, or remove it if there is no copy"
        ) from error


@functools.lru_cache(maxsize=1)
def load_removed(records: Records) -> Removed | None:
    """Read records of removals; return None if there are none."""
    if not records:
        return None
    contents = []
    for path, sha256 in records:
        content = storage.read_bytes(path)
        if hashlib.sha256(content).hexdigest() != sha256:
            raise UserError(f"{path} is not as the manifest says: restore it")
        contents.append(json.loads(content))
    path = storage.join(os.path.dirname(records[0][0]), KEY)
    if not storage.exists(path):
        raise UserError(f"{path} is missing: restore it; without it, removed pages could come back")
    hashes = frozenset(name for record in contents for name in record["hashes"])
    sites = any(record["requested"]["sites"] for record in contents)
    key = storage.read_bytes(path)
    if not all(make_probe(key) == record["probe"] for record in contents):
        raise UserError(f"{path} is not the key of this corpus' removals: restore it")
    return Removed(key, hashes, sites)
