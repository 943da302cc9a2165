"""Which URLs are the same page's, and the id that a document has by its URL."""

import re

from mswitch.pipelines.corpus.fingerprints import fingerprint

_SCHEME = re.compile(r"https?:\/\/(www\.)?")
_TRACKING = re.compile(r"\?(utm_|ref|feed).*")


def normalize_url(url: str) -> str:
    """Return the form of `url` under which pages count as the same (c4_utils.normalize_url).

    Drops the scheme and `www.` (wherever they occur), a query that starts with utm_, ref or
    feed, and trailing slashes. Case stays.
    """
    return _TRACKING.sub("", _SCHEME.sub("", url)).rstrip("/")


def document_id(url: str) -> bytes:
    """Return the fingerprint by which pages count as the same, and a document is known."""
    return fingerprint(normalize_url(url))
