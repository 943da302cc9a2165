"""Decides which URLs are the same page, and computes a document's id from its URL."""

import re

from mswitch.pipelines.corpus.fingerprints import fingerprint

_SCHEME = re.compile(r"https?:\/\/(www\.)?")
_TRACKING = re.compile(r"\?(utm_|ref|feed).*")


def normalize_url(url: str) -> str:
    """Return the form of `url` that is equal for URLs of the same page (c4_utils.normalize_url).

    Drop the scheme and `www.` (wherever they occur), a query that starts with utm_, ref or feed,
    and trailing slashes. Case stays.
    """
    return _TRACKING.sub("", _SCHEME.sub("", url)).rstrip("/")


def make_document_id(url: str) -> bytes:
    """Return the id of a document: a fingerprint that is equal for URLs of the same page."""
    return fingerprint(normalize_url(url))
