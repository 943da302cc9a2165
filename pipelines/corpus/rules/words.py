"""Cuts pages into words and n-grams, and stores these as arrays for many pages at a time.

A word is a run of letters, marks and digits. In scripts without spaces between words (see
`script_factors`), finding words needs a dictionary (`segmenter`). Without it each letter is a unit
there, and an n-gram of n words has as many letters as n English words are worth. A page may contain
both kinds of unit; its main script decides the length of its n-grams.

A hash is a polynomial modulo 2**64 over mixed values, so the hash of any span is a difference of
two prefix sums. It depends only on this file and on Python's Unicode tables, not on the machine.
"""

import dataclasses
import functools
import unicodedata
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from mswitch.pipelines.compiled import compiled
from mswitch.pipelines.corpus.rules.script_factors import (
    LETTERS_PER_WORD,
    UNSPACED,
    map_unspaced_blocks,
)
from mswitch.pipelines.corpus.rules.segmenter import segment
from mswitch.pipelines.records import Page

#: Number of characters to cut at a time. Their arrays (about 60 bytes per character) nearly fit the
#: caches.
CHUNK_CHARACTERS = 1 << 18

WORD, LETTER, MARK, DIGIT, SPACE, TERMINAL, CLOSER = (np.uint8(1 << bit) for bit in range(7))

#: Ends of sentences: ASCII, ellipsis, Armenian, Arabic, Urdu, Devanagari danda, Sinhala, Burmese,
#: Ethiopic, Khmer, Tibetan, CJK and their half-width and full-width forms.
TERMINALS = ".!?…։؟۔।॥෴၊။።፧፨។៕།༎。！？．｡‼⁇⁈⁉︕︖︒"
_CLOSERS = "\"'”’»›)]}」』】）〉》］｝"
_CODE_POINTS = 0x32400  # from here on, code points are tags or for private use

# A page with more kana per Han letter is Japanese.
_KANA_PER_HAN = 0.1

_ODD = np.uint64(0x9E3779B97F4A7C15)
_MIX_1, _MIX_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


@functools.cache
def _make_tables() -> tuple[np.ndarray, np.ndarray]:
    """Return uint8 tables by code point: property bits, and the number of the unspaced script."""
    by_category = {
        **dict.fromkeys(("Lu", "Ll", "Lt", "Lm", "Lo"), WORD | LETTER),
        # Joiners (Cf) shape letters and do not separate words.
        **dict.fromkeys(("Mn", "Mc", "Me", "Cf"), WORD | MARK),
        "Nd": WORD | DIGIT,
        **dict.fromkeys(("Nl", "No"), WORD),
        **dict.fromkeys(("Zs", "Zl", "Zp", "Cc"), SPACE),
    }
    properties = np.array(
        [by_category.get(unicodedata.category(chr(code)), 0) for code in range(_CODE_POINTS)],
        np.uint8,
    )
    properties[[ord(character) for character in TERMINALS]] |= TERMINAL
    properties[[ord(character) for character in _CLOSERS]] |= CLOSER
    return properties, map_unspaced_blocks(_CODE_POINTS)


@functools.cache
def _mix_codes() -> np.ndarray:
    """Return the value of each code point for use in hashes: uint64, 1.6 MB."""
    return mix(np.arange(_CODE_POINTS, dtype=np.uint64) + _ODD)


def list_powers(values: int) -> tuple[np.ndarray, np.ndarray]:
    """Return powers of an odd number and of its inverse modulo 2**64, `values` + 1 or more."""
    return _compute_powers(max(10, values.bit_length()))


@functools.cache
def _compute_powers(bits: int) -> tuple[np.ndarray, np.ndarray]:
    inverse = np.uint64(pow(int(_ODD), -1, 1 << 64))
    powers = []
    for base in (_ODD, inverse):
        factors = np.full((1 << bits) + 1, base)
        factors[0] = 1
        powers.append(np.cumprod(factors))
    return powers[0], powers[1]


def mix(values: np.ndarray) -> np.ndarray:
    """Map uint64 values one to one to scrambled values (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * _MIX_1
    values = (values ^ (values >> np.uint64(27))) * _MIX_2
    return values ^ (values >> np.uint64(31))


mix_one: Any = compiled(mix)


class SpanHashes:
    """Hashes of any spans of an array of uint64 values.

    Attributes:
        sums: uint64 [values + 1] sums, before each value, of the values times powers of an odd
            number.
        inverses: uint64 [at least values + 1] inverses of these powers.
    """

    def __init__(self, sums: np.ndarray, inverses: np.ndarray):
        self.sums, self.inverses = sums, inverses

    @classmethod
    def over(cls, values: np.ndarray) -> "SpanHashes":
        """Compute the prefix sums from which any span of an array can be hashed."""
        powers, inverses = list_powers(len(values))
        sums = np.zeros(len(values) + 1, np.uint64)
        np.cumsum(values * powers[: len(values)], out=sums[1:])
        return cls(sums, inverses)

    def hash(self, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
        """Return the hash of each span; it depends on the span's values, not on its place."""
        return mix((self.sums[ends] - self.sums[starts]) * self.inverses[starts])


@dataclasses.dataclass(frozen=True)
class Words:
    """The words of pages, in lower case, page after page.

    Attributes:
        properties: uint8 [characters] bits such as WORD; a line break separates two pages.
        codes: uint32 [characters] code points.
        page_starts: int64 [pages + 1] start of each page in `codes`.
        starts: int64 [units] start of each unit in `codes`.
        ends: int64 [units] its end.
        first: int64 [pages + 1] the first unit of each page.
        hashes: uint64 [units].
        characters: hashes of spans of `codes`.
        unspaced: bool [units] whether the unit is a letter of a script without spaces.
        letters_per_word: float [pages] units per word in the page's n-grams; 1 for words.
    """

    properties: np.ndarray
    codes: np.ndarray
    page_starts: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    first: np.ndarray
    hashes: np.ndarray
    characters: SpanHashes
    unspaced: np.ndarray
    letters_per_word: np.ndarray

    @functools.cached_property
    def page_of_unit(self) -> np.ndarray:
        """Page of each unit: int64 [units]."""
        return np.repeat(np.arange(len(self.first) - 1), np.diff(self.first))

    @functools.cached_property
    def spans(self) -> SpanHashes:
        """Hashes of sequences of words, or of letters in scripts without spaces."""
        return SpanHashes.over(self.hashes)

    def units(self, words: int) -> np.ndarray:
        """Convert a number of words to a number of units (words or letters) for each page.

        Returns:
            int64 [pages].
        """
        return np.maximum(1, np.rint(words * self.letters_per_word)).astype(np.int64)

    def ngrams(
        self, words: int, positions: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return n-grams of `words` words that do not go beyond their page's end; see `windows`."""
        return self.windows(self.units(words), positions)

    def windows(
        self, units: np.ndarray, positions: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the windows that do not go beyond their page's end.

        Args:
            units: int64 [pages] length of the windows on each page.
            positions: units at which windows may start; default: all.

        Returns:
            The first unit of each window, the unit after its last, and its hash.
        """
        if positions is None:
            positions = np.arange(len(self.starts))
        pages = self.page_of_unit[positions]
        stops = positions + units[pages]
        fits = stops <= self.first[pages + 1]
        positions, stops = positions[fits], stops[fits]
        return positions, stops, self.spans.hash(positions, stops)


def cut(texts: Sequence[str], locales: Sequence[str] = ()) -> Words:
    """Cut pages into words; see `chunks` for many pages.

    `locales` has each page's locale of `segmenter`, or "" to count letters; default: letters.
    """
    lowered = [text.lower() for text in texts]
    encoded = "\n".join([*lowered, ""]).encode("utf-32-le", "surrogatepass")
    codes = np.frombuffer(encoded, np.uint32)
    page_starts = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) + 1 for text in lowered], out=page_starts[1:])
    powers, inverses = list_powers(len(codes))
    properties, sums, starts, ends, scripts = _find_units(
        codes, *_make_tables(), _mix_codes(), powers
    )
    if any(locales):
        letters = properties & (WORD | MARK) == WORD
        units = segment(lowered, locales, page_starts, letters, (starts, ends, scripts))
        starts, ends, scripts = units
    characters = SpanHashes(sums, inverses)
    first = np.searchsorted(starts, page_starts)
    return Words(
        properties=properties,
        codes=codes,
        page_starts=page_starts,
        starts=starts,
        ends=ends,
        first=first,
        hashes=characters.hash(starts, ends),
        characters=characters,
        unspaced=scripts > 0,
        letters_per_word=_find_letters_per_word(scripts, first),
    )


@compiled
def _find_units(codes, properties_of, block_of, mixed_of, powers):
    """Split text into words, or letters in scripts without spaces; sum character values for hashes.

    The last character must not be part of a unit. Return properties (uint8 [characters]), sums for
    `SpanHashes`, starts and ends of units, and the unspaced script at each unit's start (uint8).
    """
    properties = np.empty(len(codes), np.uint8)
    sums = np.zeros(len(codes) + 1, np.uint64)
    # Each unit has at least one character, so arrays of this size are large enough.
    most = max(1, len(codes))
    starts, ends = np.empty(most, np.int64), np.empty(most, np.int64)
    scripts = np.empty(most, np.uint8)
    count = 0
    inside = unspaced = False
    for place in range(len(codes)):
        code = np.int64(codes[place])
        known = min(code, _CODE_POINTS - 1)
        kind, block = properties_of[known], block_of[known]
        properties[place] = kind
        mixed = mixed_of[code] if code == known else mix_one(np.uint64(code) + _ODD)
        sums[place + 1] = sums[place] + mixed * powers[place]
        begins = False
        if kind & WORD:
            is_letter_of_its_own = block > 0 and not kind & MARK
            leaves_unspaced = unspaced and block == 0
            begins = not inside or is_letter_of_its_own or leaves_unspaced
        if inside and (begins or not kind & WORD):
            ends[count - 1] = place
        if begins:
            starts[count], scripts[count] = place, block
            count += 1
        inside, unspaced = kind & WORD > 0, block > 0
    return properties, sums, starts[:count], ends[:count], scripts[:count]


def _find_letters_per_word(scripts: np.ndarray, first: np.ndarray) -> np.ndarray:
    pages = len(first) - 1
    page_of_unit = np.repeat(np.arange(pages), np.diff(first))
    kinds = len(UNSPACED) + 1
    counts = np.bincount(page_of_unit * kinds + scripts, minlength=pages * kinds)
    counts = counts.reshape(pages, kinds)
    han, kana = UNSPACED.index("Hani") + 1, UNSPACED.index("Jpan") + 1
    japanese = counts[:, kana] > _KANA_PER_HAN * counts[:, han]
    counts[japanese, kana] += counts[japanese, han]
    counts[japanese, han] = 0
    letters = np.array([1.0, *LETTERS_PER_WORD.values()])
    return letters[counts.argmax(axis=1)]


def cut_pages(pages: Sequence[Page]) -> Words:
    """Cut pages into words; each page keeps a reference to the result (`Page.words`)."""
    words = cut([page.text for page in pages])
    for number, page in enumerate(pages):
        page.words = words, number
    return words


def chunks(
    texts: Sequence[str | bytes], max_characters: int = CHUNK_CHARACTERS
) -> Iterator[tuple[int, int]]:
    """Yield ranges of at least one page; each range has about `max_characters` (or bytes)."""
    start = size = 0
    for index, text in enumerate(texts):
        if size and size + len(text) > max_characters:
            yield start, index
            start, size = index, 0
        size += len(text)
    if start < len(texts):
        yield start, len(texts)
