"""The character encoding of HTML: declared where its bytes agree, else detected.

What declares an encoding, and which bytes name which, follows the WHATWG's standards (HTML,
"Determining the character encoding"; Encoding), except that here a declaration has to prove true.
"""

import codecs
import re
from collections.abc import Iterator

from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

#: Most of the characters beyond ASCII that may be broken in a page that is in an encoding. Of
#: text in 21 legacy encodings, read as UTF-8, 0.62 to 1.00 were in any 100 characters.
MAX_BROKEN_SHARE = 0.2
#: From here on a page is not in UTF-8; between both it is a mixture, and in no one encoding.
MIN_FOREIGN_SHARE = 0.5
#: In languages that windows-1252 is for, letters beyond ASCII stand alone: 1.0 to 1.2 in a row,
#: where it is 3.6 to 6 for letters of other alphabets.
_MOST_IN_A_ROW = 2

#: Python's name of windows-1252.
_DEFAULT = "cp1252"
_BYTE_ORDER_MARK = "\ufeff".encode()
_REPLACEMENT = "\ufffd".encode()
_BEYOND_ASCII = bytes(range(0x80, 0x100))
_RUN = re.compile(rb"[\x80-\xff]+")
#: What the WHATWG means by these names is more than Python does: it decodes where Python cannot.
_SUPERSETS = {
    "big5": "big5hkscs",
    "euc_kr": "cp949",
    "gbk": "gb18030",
    "iso8859-11": "cp874",
    "shift_jis": "cp932",
}
#: The detector's name of what the standard calls EUC-KR; and it does not know KOI8-U, which has
#: Ukrainian letters in place of 8 of KOI8-R's box drawings.
_DETECTED = {"cp949": "euc_kr", "koi8-r": "koi8-u"}


def decode(html: bytes, http_charset: str = "") -> str | None:
    """Decode HTML; None where its encoding cannot be determined.

    It is in the encoding of the HTTP header, else of the meta tag, else in the one that uchardet
    detects: the first in which at most `MAX_BROKEN_SHARE` of the characters beyond ASCII are
    broken (they become U+FFFD). A character that is cut off at the end is left out. Only encodings
    of the WHATWG's standard count: a page cannot choose any other of Python's codecs.

    Any bytes are valid windows-1252 (which ISO-8859-1 and ASCII are names of), and servers declare
    it unasked: any other declaration that proves true comes first, and so does UTF-8.
    """
    for encoding in _encodings(html, http_charset):
        text, broken = _decode(html, encoding)
        if broken <= MAX_BROKEN_SHARE:
            return text
    return None


def _encodings(html: bytes, http_charset: str) -> Iterator[str]:
    """Yield what HTML may be in, the best reason first."""
    header = map_encoding_to_html5(http_charset, fallback_utf8=False) if http_charset else None
    if html.startswith(_BYTE_ORDER_MARK):
        header = "utf-8"
    if header not in (None, _DEFAULT):
        yield header
    meta = _meta_charset(html)
    if meta not in (None, _DEFAULT, header):
        yield meta
    declared = {header, meta} - {None}
    if declared <= {_DEFAULT} and not _decode(html, "utf-8")[0].isascii():
        yield "utf-8"
    if declared == {_DEFAULT} or (_DEFAULT in declared and _stand_alone(html)):
        yield _DEFAULT
    if MAX_BROKEN_SHARE < _decode(html, "utf-8")[1] < MIN_FOREIGN_SHARE:
        return
    if detected := _detected(html):
        yield detected
    if _stand_alone(html):
        yield _DEFAULT


def _decode(html: bytes, encoding: str) -> tuple[str, float]:
    """Decode as far as possible; also return the share of characters beyond ASCII that broke."""
    try:
        return html.decode(encoding).removeprefix("\ufeff"), 0.0
    except UnicodeDecodeError:
        decoder = codecs.getincrementaldecoder(_SUPERSETS.get(encoding, encoding))("replace")
    text = decoder.decode(html).removeprefix("\ufeff")
    broken = text.count("\ufffd") - html.count(_REPLACEMENT)
    beyond_ascii = len(text) - len(text.encode("ascii", "ignore"))
    return text, max(0.0, broken / max(1, beyond_ascii))


def _meta_charset(html: bytes) -> str | None:
    # Without its other bytes, and without what begins an escape, there is nothing to detect.
    head = html[:1024].translate(None, _BEYOND_ASCII + b"\x1b~")
    found = detect_encoding(head, html5_compatible=False, from_html_meta=True)
    if found is None or found == "ascii":
        return None
    # A meta tag that can be read is not in UTF-16; the standard takes it for UTF-8.
    return "utf-8" if found.startswith("utf-16") else found


def _detected(html: bytes) -> str | None:
    found = detect_encoding(html, html5_compatible=False)
    if found is None:
        return None
    return _DETECTED.get(found) or map_encoding_to_html5(found, fallback_utf8=False)


def _stand_alone(html: bytes) -> bool:
    """Tell whether characters beyond ASCII stand alone, as in what windows-1252 is for."""
    runs = _RUN.findall(html)
    return len(b"".join(runs)) < _MOST_IN_A_ROW * max(1, len(runs))
