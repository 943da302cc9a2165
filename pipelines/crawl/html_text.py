"""HTML to plain text, whoever wrote the HTML."""

import contextlib
import re

import numpy as np
from resiliparse.extract.html2text import extract_plain_text
from resiliparse.parse.encoding import bytes_to_str, detect_encoding, map_encoding_to_html5

from pipelines.crawl.html_formatting import may_rebuild_many, rebuilt_elements
from pipelines.crawl.html_nesting import nesting_depth

#: Parsing takes time quadratic in nesting depth and in attributes per tag: at these limits
#: 0.5 and 0.1 s, at 50 times them minutes. Browsers stop nesting at a depth of 512.
MAX_DEPTH = 5_000
MAX_ATTRIBUTES = 5_000
#: Elements that the parser makes again in each block because they were left open: about 4 us and
#: 400 bytes each.
MAX_REBUILT = 200_000

_ATTRIBUTE = rb"""[\s/]*+[^\s/>][^\s/>=]*+(?:\s*+=\s*+(?:"[^"]*+"|'[^']*+'|[^\s>]*+))?+"""
#: The end of a tag within the value of an attribute.
_QUOTED_TAG_END = re.compile(rb"""=\s*+(?:"[^">]*+>|'[^'>]*+>)""")
# Possessive and never failing, so that the search is linear in the length of the page.
_ATTRIBUTES = re.compile(
    rb"<[a-zA-Z][^\s/>]*+(?:%b){0,%d}+(%b)?+" % (_ATTRIBUTE, MAX_ATTRIBUTES, _ATTRIBUTE)
)


class UnreadableError(ValueError):
    """A page that cannot be turned into text; `reason` is counted."""

    def __init__(self, reason: str, detail: str):
        super().__init__(detail)
        self.reason = reason


def decode_html(html: bytes, http_charset: str = "") -> str:
    """Decode by the HTTP charset, else the meta tag, else detection (uchardet).

    Only encodings that the WHATWG standard gives to web pages count: a page cannot choose any
    other of Python's codecs. Bytes that the encoding lacks become U+FFFD or are dropped.
    """
    encoding = map_encoding_to_html5(http_charset, fallback_utf8=False) if http_charset else None
    if encoding is None:
        encoding = detect_encoding(html, from_html_meta=True) or "utf-8"
    if encoding == "utf-8":
        # What is valid needs no more than Python's own decoder, which is twice as fast.
        with contextlib.suppress(UnicodeDecodeError):
            return html.decode().removeprefix("\ufeff")
    return bytes_to_str(html, encoding, errors="replace")


def html_to_text(html: str, main_content: bool = True, utf8: bytes | None = None) -> str:
    """Return the text a reader sees, one line per block, list item or table row.

    Alternative texts, form fields, link targets and list bullets are left out: they are no
    running text. With `main_content`, resiliparse's heuristics also leave out navigation,
    sidebars, footers and comments. `utf8` is the same HTML in UTF-8, where it is at hand.

    Raises:
        UnreadableError: the HTML is nested too deeply, has a tag with too many attributes
            (both would take minutes to parse), or resiliparse refuses it.
    """
    # As the parser takes it, in UTF-8: searching that is faster too.
    _check_cost(html.encode("utf-8", "surrogatepass") if utf8 is None else utf8)
    try:
        return extract_plain_text(
            html,
            preserve_formatting=True,
            main_content=main_content,
            list_bullets=False,
            alt_texts=False,
            links=False,
            form_fields=False,
            noscript=False,
            comments=False,
        )
    except Exception as error:
        raise UnreadableError("unreadable_html", str(error)) from error


def _check_cost(html: bytes) -> None:
    if may_rebuild_many(html, MAX_REBUILT) and rebuilt_elements(html) > MAX_REBUILT:
        raise UnreadableError("nested_too_deeply", f"more than {MAX_REBUILT} elements rebuilt")
    # Nothing nests deeper than there are start tags.
    tags = np.count_nonzero(np.frombuffer(html, np.uint8) == ord("<"))
    many = tags > MAX_DEPTH and tags - html.count(b"</") > MAX_DEPTH
    if many and nesting_depth(html, MAX_DEPTH) > MAX_DEPTH:
        raise UnreadableError("nested_too_deeply", f"more than {MAX_DEPTH} elements deep")
    if _may_have_many_attributes(html) and any(m[1] for m in _ATTRIBUTES.finditer(html)):
        raise UnreadableError("too_many_attributes", f"a tag of {MAX_ATTRIBUTES} attributes")


def _may_have_many_attributes(html: bytes) -> bool:
    """Tell quickly of most pages that no tag has too many attributes.

    An attribute takes two bytes at least, and only quotes can hide the end of a tag.
    """
    if len(html) <= 2 * MAX_ATTRIBUTES:
        return False
    return _has_longer_piece(html, 2 * MAX_ATTRIBUTES) or _QUOTED_TAG_END.search(html) is not None


def _has_longer_piece(html: bytes, most: int) -> bool:
    """Tell whether anything between two ends of tags is longer than `most` bytes.

    Looks only at the last end of a tag within reach of the one before.
    """
    start = 0
    while len(html) - start > most:
        end = html.rfind(b">", start, start + most + 1)
        if end < 0:
            return True
        start = end + 1
    return False
