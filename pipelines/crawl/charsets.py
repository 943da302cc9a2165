"""Determines HTML's encoding: the declared encoding if the bytes fit it, else a detected encoding.

Declarations and names of encodings follow the WHATWG's standards (HTML, "Determining the character
encoding"; Encoding), but here the bytes must confirm a declaration. docs/reference/mc4.md has the
measurements behind the rules.
"""

import codecs
import functools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import pycld2
from resiliparse.parse.encoding import detect_encoding, map_encoding_to_html5

from mswitch.pipelines.own_tables import read_own_table

#: A page is in an encoding if at most this share of its characters beyond ASCII is broken. If text
#: in 21 legacy encodings is read as UTF-8, the share is 0.62 to 1.00 in any 100 characters.
MAX_BROKEN_SHARE = 0.2
#: With this share of broken characters or more, a page is not UTF-8. Between MAX_BROKEN_SHARE and
#: this share, a page is a mixture of encodings.
MIN_FOREIGN_SHARE = 0.5
#: Text in another encoding with this number of non-ASCII characters is hardly ever valid UTF-8 by
#: chance. Of 10,000 random samples of this length in Thai, 18 were valid UTF-8. In 13 other
#: encodings, no sample was valid UTF-8. But of 10,000 random single characters in GBK, 1,359 were.
_MIN_UTF8_CHARACTERS = 8
#: Limit on the mean length of runs of letters beyond ASCII. Runs have 1.0 to 1.2 letters in
#: languages of windows-1252, and 3.6 to 6 in other alphabets.
_MOST_IN_A_ROW = 2
#: Text is in a non-Latin alphabet if at least this share of its non-ASCII characters are non-Latin
#: letters. Other non-ASCII characters are decoration.
_MIN_OTHER_LETTERS = 0.6
#: Maximum bytes of a sample of a page's non-ASCII text, and of the part of the page that the sample
#: is taken from.
_SAMPLE_BYTES, _WINDOW_BYTES = 2000, 1 << 14
#: Bytes of the sample that CLD2 reads, and of the smallest sample that can refute a declared
#: encoding.
_READ_BYTES, _MIN_READ_BYTES = 1000, 300

_DEFAULT = "cp1252"
#: Bytes beyond ASCII confirm or refute these encodings, whether or not a page declares them.
_PROVED = (_DEFAULT, "utf-7", "utf-8", "utf-16-le", "utf-16-be")
_MARKS = {b"\xef\xbb\xbf": "utf-8", b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
#: In UTF-16, every second byte of markup is 0. HTML is UTF-16 only if zeros make up at least a
#: quarter of the bytes at even or at odd positions. Only the first `_HEAD_BYTES` bytes count, and
#: at least `_MIN_ZEROS` of them must be 0.
_HEAD_BYTES, _MIN_ZEROS = 1024, 16
_WIDE = (["utf-16-le"], ["utf-16-be"])
_WIDE_TAGS = {
    "utf-16-le": re.compile(rb"(?:..)*?<\0[A-Za-z!/]\0", re.S),
    "utf-16-be": re.compile(rb"(?:..)*?\0<\0[A-Za-z!/]", re.S),
}
_REPLACEMENT = "\ufffd".encode()
_BEYOND_ASCII = bytes(range(0x80, 0x100))
_CONTROLS = bytes(range(0x20)) + b"\x7f"
_RUN = re.compile(rb"[\x80-\xff]+")
#: A tag, or text between tags, with bytes beyond ASCII; possessive, so it takes linear time.
_PIECE = re.compile(rb"[<>]([^<>\x80-\xff]*+[\x80-\xff][^<>]*)")
_OTHER_LETTER = re.compile("[\u0370-\u1dff\u2c00-\ufffc\U00020000-\U0003ffff]")
#: In these encodings, the WHATWG's standard decodes more characters than Python does. The values
#: are Python's names of larger encodings to use instead.
_SUPERSETS = {
    "big5": "big5hkscs",
    "euc_kr": "cp949",
    "gbk": "gb18030",
    "iso8859-11": "cp874",
    "shift_jis": "cp932",
}
#: Encodings in which text can be valid UTF-8 by chance: multi-byte encodings, and Thai.
_LIKE_UTF8 = frozenset(("euc_jp", "gb18030", "johab", *_SUPERSETS))
#: Names of encodings that the standard lacks or refuses, with Python's names.
_OTHER_NAMES = {row["label"]: row["codec"] for row in read_own_table("encodings.csv")}
_OTHER_META = re.compile(
    rb"<meta\s[^>]{0,200}?charset\s*=\s*[\"']?\s*(%s)\b" % "|".join(_OTHER_NAMES).encode(), re.I
)
_SEVEN_BITS = ("hz", "iso2022_jp", "iso2022_kr")
_ESCAPES = (b"\x1b", b"~{")
#: Corrections to the detector's names. cp949 is what the standard calls EUC-KR. The detector does
#: not know KOI8-U, which has Ukrainian letters instead of 8 box drawings of KOI8-R.
_DETECTED = {"cp949": "euc_kr", "koi8-r": "koi8-u"}
#: Languages (CLD2's codes) with Latin letters that windows-1252 lacks, by encoding.
_CENTRAL_EUROPEAN = ("bs", "cs", "hr", "hu", "pl", "ro", "sk", "sl", "sr")
_LATIN = {
    "cp1250": _CENTRAL_EUROPEAN,
    "iso8859-2": _CENTRAL_EUROPEAN,
    "cp1254": ("tr",),
    "cp1257": ("lt", "lv"),
    "cp1258": ("vi",),
}
_NOT_WESTERN = frozenset(lang for langs in _LATIN.values() for lang in langs)


class Decoded(NamedTuple):
    """Decoded HTML and its encoding.

    Attributes:
        text: the HTML.
        charset: Python's name of the encoding that decoded it.
        declared: the encoding declared by the HTTP header, else by the meta tag, else "".
    """

    text: str
    charset: str = ""
    declared: str = ""


def decode(html: bytes, http_charset: str = "") -> Decoded | None:
    """Decode HTML; return None if its encoding cannot be determined.

    The result is the first of these encodings in which at most `MAX_BROKEN_SHARE` of the characters
    beyond ASCII are broken. (Broken characters become U+FFFD; one cut off at the end is omitted.)

    1. UTF-8 or UTF-16 with a byte order mark; UTF-16 if the markup has its zeros, or if the header
       declares it and it contains a tag.
    2. UTF-8; with fewer than `_MIN_UTF8_CHARACTERS`, only if no declared encoding resembles UTF-8.
    3. The encoding declared by the HTTP header, then by the meta tag, except windows-1252. If CLD2
       cannot read the text in it, uchardet's encoding comes first, if that is for another alphabet
       and CLD2 can read it.
    4. If letters come in a row: uchardet's encoding, if it is for another alphabet.
    5. If letters stand alone, or windows-1252 is declared: the Latin encoding in which CLD2 reads
       one of its languages best; in doubt, windows-1252.
    6. uchardet's encoding.

    Any bytes are valid windows-1252 (ISO-8859-1 and ASCII are names of it), and servers declare it
    by default, so its declaration never counts against the bytes. Only encodings of the WHATWG's
    standard and `_OTHER_NAMES` count: a page cannot choose another of Python's codecs.
    """
    declared = [name for name in (_look_up_label(http_charset), _find_meta_charset(html)) if name]
    read = functools.cache(functools.partial(_decode, html))
    for encoding in _list_encodings(html, declared, read):
        text, broken = read(encoding)
        if broken <= MAX_BROKEN_SHARE:
            return Decoded(text, encoding, declared[0] if declared else "")
    return None


def _list_encodings(
    html: bytes, declared: Sequence[str], read: Callable[[str], tuple[str, float]]
) -> Iterator[str]:
    if marked := _find_mark(html, declared):
        yield marked
    if html.isascii():
        yield from _list_seven_bit_encodings(html, declared)
        return
    if "utf-8" in declared:
        yield "utf-8"
    others = [name for name in declared if name not in _PROVED]
    if not others and _is_utf8(others, *read("utf-8")):
        yield "utf-8"
    sample = _take_sample(html)
    if others and _is_utf8(others, *_decode(sample, "utf-8")):
        yield "utf-8"
    for encoding in others:
        if len(sample) >= _MIN_READ_BYTES and not _identify_language(sample, encoding)[0]:
            detected = _detect_other_alphabet(sample)
            if detected and _identify_language(sample, detected)[0]:
                yield detected
        yield encoding
    if _DEFAULT not in declared and MAX_BROKEN_SHARE < read("utf-8")[1] < MIN_FOREIGN_SHARE:
        return
    if detected := _detect_other_alphabet(sample):
        yield detected
    if _DEFAULT in declared or _are_single(sample):
        yield _choose_latin(sample)
    if detected := _detect(sample):
        yield detected


def _list_seven_bit_encodings(html: bytes, declared: Sequence[str]) -> Iterator[str]:
    escaped = any(escape in html for escape in _ESCAPES)
    if escaped and (detected := _detect(html)) in _SEVEN_BITS:
        yield detected
    yield from (name for name in declared if not name.startswith("utf-16"))
    yield "utf-8"


def _decode(html: bytes, encoding: str) -> tuple[str, float]:
    """Return the decoded text, and the share of its non-ASCII characters that are undecodable."""
    try:
        text, broken = html.decode(encoding).removeprefix("\ufeff"), 0.0
    except UnicodeDecodeError:
        decoder = codecs.getincrementaldecoder(_SUPERSETS.get(encoding, encoding))("replace")
        try:
            text = decoder.decode(html).removeprefix("\ufeff")
        except UnicodeError:  # an escape sequence has no end
            return "", 1.0
        broken = text.count("\ufffd") - html.count(_REPLACEMENT)
        broken = max(0.0, broken / max(1, _count_beyond_ascii(text)))
    if encoding == "utf-7":  # UTF-7 can encode a lone surrogate
        text = text.encode("utf-8", "replace").decode()
    return text, broken


def _count_beyond_ascii(text: str) -> int:
    return len(text) - len(text.encode("ascii", "ignore"))


def _look_up_label(label: str) -> str | None:
    label = label.lower()
    return _OTHER_NAMES.get(label) or map_encoding_to_html5(label, fallback_utf8=False)


def _find_meta_charset(html: bytes) -> str | None:
    # Remove non-ASCII bytes and bytes that begin escape sequences, so that `detect_encoding` can
    # use only the meta tag.
    head = html[:_HEAD_BYTES].translate(None, _BEYOND_ASCII + b"\x1b~")
    charset = detect_encoding(head, html5_compatible=False, from_html_meta=True)
    if charset is None or charset == "ascii":
        other = _OTHER_META.search(head)
        return _look_up_label(other[1].decode()) if other else None
    # A page whose meta tag was readable is not UTF-16; like the standard, treat it as UTF-8.
    return "utf-8" if charset.startswith("utf-16") else charset


def _find_mark(html: bytes, declared: Sequence[str]) -> str | None:
    for mark, encoding in _MARKS.items():
        if html.startswith(mark):
            return encoding
    for encoding, tag in _WIDE_TAGS.items() if declared[:1] in _WIDE else ():
        if tag.match(html):
            return encoding
    head = html[:_HEAD_BYTES]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) < max(_MIN_ZEROS, len(head) / 8, 4 * min(even, odd)):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _is_utf8(declared: Sequence[str], text: str, broken: float) -> bool:
    if broken > MAX_BROKEN_SHARE or text.isascii():
        return False
    return _LIKE_UTF8.isdisjoint(declared) or _count_beyond_ascii(text) >= _MIN_UTF8_CHARACTERS


def _take_sample(html: bytes) -> bytes:
    first = _RUN.search(html)
    start = max(0, first.start() - _SAMPLE_BYTES) if first else 0
    pieces = _PIECE.findall(b">" + html[start : start + _WINDOW_BYTES])
    return b" ".join(pieces)[:_SAMPLE_BYTES].translate(None, _CONTROLS)


def _are_single(sample: bytes) -> bool:
    """Return whether most non-ASCII bytes are isolated, as in text in windows-1252."""
    runs = _RUN.findall(sample[:_READ_BYTES])
    # Count only the distinct bytes of a run: a decorative line repeats a byte.
    return sum(len(set(run)) for run in runs) < _MOST_IN_A_ROW * max(1, len(runs))


def _detect(html: bytes) -> str | None:
    charset = detect_encoding(html, html5_compatible=False)
    if charset is None or charset in _OTHER_NAMES.values():
        return charset
    return _DETECTED.get(charset) or map_encoding_to_html5(charset, fallback_utf8=False)


def _detect_other_alphabet(sample: bytes) -> str | None:
    charset = None if _are_single(sample) else _detect(sample)
    if charset is None:
        return None
    text, _ = _decode(sample, charset)
    others = len(_OTHER_LETTER.findall(text))
    return charset if others >= _MIN_OTHER_LETTERS * _count_beyond_ascii(text) else None


def _choose_latin(sample: bytes) -> str:
    best = _DEFAULT
    lang, most = _identify_language(sample, best)
    if lang and lang not in _NOT_WESTERN:
        return best
    for encoding, langs in _LATIN.items():
        lang, points = _identify_language(sample, encoding)
        if lang in langs and points > most:
            best, most = encoding, points
    return best


def _identify_language(sample: bytes, encoding: str) -> tuple[str, float]:
    """Return the language that CLD2 is sure of (else ""), and its score in points per kB."""
    text = sample[:_READ_BYTES].decode(encoding, "replace")
    try:
        reliable, _, ((_, lang, _, points), *_) = pycld2.detect(text, isPlainText=True)
    except pycld2.error:  # control characters: the sample is not text
        return "", 0.0
    return (lang, points) if reliable else ("", 0.0)
