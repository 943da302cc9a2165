"""Words of scripts without spaces, by ICU's dictionaries; needs the extra `segmenter`."""

import importlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from mswitch.pipelines.errors import UserError

#: Languages in which ICU finds words by a dictionary, or syllables (Tibetan).
LANGUAGES = ("bo", "ja", "km", "lo", "my", "th", "zh")

#: Starts, ends and scripts of units. A unit is a word (script 0) or a letter of a script without
#: spaces.
Units = tuple[np.ndarray, np.ndarray, np.ndarray]


def find_locale(lang: str) -> str:
    """Return the ICU locale to find words in text of `lang`, or "" if spaces separate words."""
    base, _, script = lang.partition("-")
    return base if base in LANGUAGES and script != "Latn" else ""


def load_icu() -> Any:
    """Return the module icu4py.

    Raises:
        UserError: it is not installed.
    """
    try:
        importlib.import_module("icu4py.breakers")
    except ImportError as error:
        raise UserError(
            "quality.segmenter=icu: the module icu4py is not installed: run pip install "
            "'mswitch[segmenter]'"
        ) from error
    return importlib.import_module("icu4py")


def segment(
    texts: Sequence[str], locales: Sequence[str], page_starts: np.ndarray, letters: np.ndarray,
    units: Units,
) -> Units:  # fmt: skip
    """Split pages that have a locale into words by ICU; keep other pages' words or letters.

    Args:
        texts: the pages.
        locales: locale of each page, or "".
        page_starts: int64 [pages + 1] start of each page among all characters.
        letters: bool [characters] whether a character is a letter or digit. Each word has one;
            zero-width spaces between words have none.
        units: the units of all pages.
    """
    first = np.searchsorted(units[0], page_starts)
    before = np.concatenate([[0], np.cumsum(letters)])
    pages = []
    for number, locale in enumerate(locales):
        if not locale:
            pages.append(tuple(part[first[number] : first[number + 1]] for part in units))
            continue
        edges = page_starts[number] + _find_edges(texts[number], locale)
        starts, ends = edges[:-1], edges[1:]
        words = before[ends] > before[starts]
        starts, ends = starts[words], ends[words]
        pages.append((starts, ends, np.zeros(len(starts), np.uint8)))
    starts, ends, scripts = (np.concatenate(parts) for parts in zip(*pages, strict=True))
    return starts, ends, scripts


def _find_edges(text: str, locale: str) -> np.ndarray:
    """Return the places between ICU's segments of a text, with the text's start and end."""
    breaker = load_icu().breakers.WordBreaker(text, locale)
    edges = np.fromiter((start for start, _ in breaker.segments()), np.int64)
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    # ICU counts units of UTF-16. Characters beyond U+FFFF have two units.
    if len(codes) and codes.max() > 0xFFFF:
        edges = np.searchsorted(np.cumsum(1 + (codes > 0xFFFF)) - 1, edges)
    return np.append(edges, len(text))
