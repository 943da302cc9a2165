"""Where the tags of HTML are, and their names, found in arrays and not one at a time."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

_U8, _U64 = np.uint8, np.uint64
_NAME_BYTES = 8

#: What must come after the last ">" of the HTML that `find_tags` takes.
PADDING = bytes(_NAME_BYTES + 2)
#: The name of a comment.
COMMENT = int.from_bytes(b"!--", "little")

#: Of tags with an attribute in quotes: `<a b="`, or `<a =="` and ">".
SHORTEST_QUOTING_TAG = 7

_ONES = _U64(0x0101010101010101)
_HIGH_BITS = _U64(0x80) * _ONES
_LOWER_CASE = _U64(0x20) * _ONES
#: What ends a tag's name: space, ">" and "/", with bit 5 set as in lower-case letters.
_NAME_ENDS = tuple(_U64(code) * _ONES for code in b" >/")
_LT, _GT, _SLASH, _BANG, _QUESTION = b"<>/!?"


class Tags(NamedTuple):
    """The tags and comments of HTML, in order.

    Attributes:
        starts: int64 [tags] where each "<" is.
        ends: int64 [tags] after the next ">"; of a comment too, which may go on.
        names: uint64 [tags] `packed_name`, `COMMENT`, or 0 for what starts within another tag.
        closing: bool [tags] whether it is an end tag.
    """

    starts: np.ndarray
    ends: np.ndarray
    names: np.ndarray
    closing: np.ndarray


def packed_name(name: str) -> int:
    """Return what stands for a lower-case name: its first eight bytes."""
    return int.from_bytes(name.encode()[:_NAME_BYTES], "little")


def find_tags(html: bytes) -> Tags:
    """Return the tags of HTML in UTF-8, which must end in ">" and `PADDING`.

    White space must be spaces, or names before it are taken for longer than they are. Quotes are
    not looked at: a ">" in the value of an attribute ends a tag.
    """
    codes = np.frombuffer(html, _U8)
    words = np.ndarray(len(codes) - _NAME_BYTES + 1, "<u8", html, strides=(1,))
    brackets = np.flatnonzero(codes & ~_U8(_LT ^ _GT) == _LT & _GT)
    opens = codes[brackets] == _LT
    # The next ">" from the last to the first.
    next_ends = np.where(opens, len(codes), brackets + 1)[::-1]
    np.minimum.accumulate(next_ends, out=next_ends)
    starts, ends = brackets[opens], next_ends[::-1][opens]
    found = words[starts + 1]
    closing = found.astype(_U8) == _SLASH
    names = np.where(closing, words[starts + 2], found)
    first = names.astype(_U8)
    is_letter = (first | 0x20) - _U8(ord("a")) < 26
    # After "</", what is no name is a comment up to the next ">".
    is_tag = is_letter | closing | (first == _BANG) | (first == _QUESTION)
    is_comment = ((names & _U64(0xFFFFFF)) == COMMENT) & ~closing
    names |= _LOWER_CASE
    end = _first_zero(names ^ _NAME_ENDS[0])
    for code in _NAME_ENDS[1:]:
        end |= _first_zero(names ^ code)
    # The lowest bit that is set, and all below its byte.
    end &= ~end + _U64(1)
    names &= (end >> _U64(7)) - _U64(1)
    names[is_comment] = COMMENT
    starts, ends, names, closing = (each[is_tag] for each in (starts, ends, names, closing))
    # What starts before the last tag ended is in the value of an attribute, or ends a script.
    within = np.zeros(len(starts), bool)
    within[1:] = starts[1:] < ends[:-1]
    names[within & ~closing] = 0
    return Tags(starts, ends, names, closing)


def _first_zero(words: np.ndarray) -> np.ndarray:
    """Return words whose lowest bit that is set is the highest of the first byte that is zero."""
    return (words - _ONES) & ~words & _HIGH_BITS


class NameTable:
    """Flags of some names, for many tags at once: a hash table in which no two names collide."""

    _BITS = 11

    def __init__(self, flags: Iterable[tuple[int, str]]):
        """Take pairs of a flag, one of eight bits, and a name, which may have several flags."""
        flags_of: dict[int, int] = {}
        for flag, name in flags:
            flags_of[packed_name(name)] = flags_of.get(packed_name(name), 0) | flag
        known = np.array(list(flags_of), _U64)
        factor = 1
        while True:
            # Odd numbers, by the multiplier of a linear congruential generator.
            factor = factor * 6364136223846793005 % (1 << 64)
            self._factor = _U64(factor)
            places = self._places(known)
            if len(np.unique(places)) == len(known):
                break
        self._names = np.zeros(1 << self._BITS, _U64)
        self._flags = np.zeros(1 << self._BITS, _U8)
        self._names[places], self._flags[places] = known, list(flags_of.values())

    def _places(self, names: np.ndarray) -> np.ndarray:
        return ((names * self._factor) >> _U64(64 - self._BITS)).view(np.int64)

    def flags(self, names: np.ndarray) -> np.ndarray:
        """Return the flags of packed names: uint8, 0 for names that have none."""
        places = self._places(names)
        return self._flags[places] * (self._names[places] == names)
