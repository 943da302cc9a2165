"""Names of HTML elements as numbers, small ones for those that anyone asks about."""

from collections.abc import Iterable, Mapping

import numpy as np

from pipelines.compiled import compiled


def _names(written: str) -> tuple[str, ...]:
    return tuple(written.split())


#: Elements whose content is text up to their end tag.
RAW = _names("script style textarea title xmp iframe noembed noframes")
#: All names that readers of tokens ask about.
KNOWN = (
    *RAW,
    *_names("a abbr address annotation-xml applet area article aside audio b base basefont"),
    *_names("bgsound big blockquote body br button caption center cite code col colgroup dd del"),
    *_names("desc details dialog dir div dl dt em embed fieldset figcaption figure font footer"),
    *_names("foreignobject form frame frameset h1 h2 h3 h4 h5 h6 head header hgroup hr html i img"),
    *_names("input ins kbd keygen li link listing main mark marquee math menu meta mi mn mo ms"),
    *_names("mtext nav nobr noscript object ol optgroup option p param plaintext pre q rb rp rt"),
    *_names(
        "rtc ruby s samp search section select small source span strike strong sub summary sup svg"
    ),
    *_names("table tbody td template tfoot th thead tr track tt u ul var video wbr"),
)
UNKNOWN = len(KNOWN)


def known(name: str) -> int:
    """Return the number of a name in `KNOWN`."""
    return KNOWN.index(name)


def flags_by_name(flags: Mapping[int, Iterable[str]]) -> np.ndarray:
    """Return the flags of each number: int64 [UNKNOWN + 1], the last for all other names."""
    found = np.zeros(UNKNOWN + 1, np.int64)
    for flag, names in flags.items():
        for name in names:
            found[known(name)] |= flag
    return found


#: The letters of all known names, and where each name starts there.
LETTERS = np.frombuffer("".join(KNOWN).encode(), np.uint8).copy()
BOUNDS = np.cumsum([0, *map(len, KNOWN)])
_LOWER = np.frombuffer(bytes(range(256)).lower(), np.uint8).copy()
_FACTOR, _FOLD = np.uint64(0x9E3779B97F4A7C15), np.uint64(29)
#: A hash's highest bits choose among as many slots, of which few are taken.
_SLOT_BITS = 10
_SHIFT, _BYTE = np.uint64(64 - _SLOT_BITS), np.uint64(8)
#: Of a name its first bytes serve to look it up.
_PACKED_BYTES = 8


def _slots() -> tuple[np.ndarray, np.ndarray]:
    """Return the first bytes of each known name, and the numbers of names by slot, -1 for none."""
    packed = [int.from_bytes(name.encode()[:_PACKED_BYTES], "big") for name in KNOWN]
    slots = np.full(1 << _SLOT_BITS, -1, np.int32)
    for number, value in enumerate(packed):
        slot = (value * int(_FACTOR) % (1 << 64)) >> int(_SHIFT)
        while slots[slot] >= 0:
            slot = (slot + 1) % len(slots)
        slots[slot] = number
    return np.array(packed, np.uint64), slots


_PACKED, _SLOTS = _slots()


@compiled
def hash_name(text, start, end, seed):
    """Return a hash of a name, the same in any case."""
    hashed = seed
    for place in range(start, end):
        hashed = (hashed ^ np.uint64(_LOWER[text[place]])) * _FACTOR
        hashed ^= hashed >> _FOLD
    return hashed


@compiled
def same_name(text, start, end, other, other_start, other_end):
    """Tell whether two names are the same, in any case."""
    if end - start != other_end - other_start:
        return False
    for place in range(end - start):
        if _LOWER[text[start + place]] != _LOWER[other[other_start + place]]:
            return False
    return True


@compiled
def known_number(html, start, end):
    """Return the number of a name, `UNKNOWN` if it is none of the known."""
    packed = np.uint64(0)
    for place in range(start, min(end, start + _PACKED_BYTES)):
        packed = (packed << _BYTE) | np.uint64(_LOWER[html[place]])
    slot = np.int64((packed * _FACTOR) >> _SHIFT)
    while _SLOTS[slot] >= 0:
        number = np.int64(_SLOTS[slot])
        first, last = BOUNDS[number], BOUNDS[number + 1]
        if _PACKED[number] == packed and same_name(html, start, end, LETTERS, first, last):
            return int(number)
        slot = (slot + 1) & (len(_SLOTS) - 1)
    return UNKNOWN


@compiled
def other_number(html, start, end, seed, slots, spans, distinct):
    """Return the number of another name, which is `distinct` if the page has not had it before.

    Args:
        html: the page.
        start: where the name starts.
        end: where it ends.
        seed: of hashes.
        slots: int32, as many as a power of two, numbers of names, -1 where there is none.
        spans: int32 [., 2] where the names are.
        distinct: the next number.
    """
    slot = np.int64(hash_name(html, start, end, seed) & np.uint64(len(slots) - 1))
    while slots[slot] >= 0:
        span = spans[slots[slot] - UNKNOWN - 1]
        if same_name(html, start, end, html, span[0], span[1]):
            return int(slots[slot])
        slot = (slot + 1) & (len(slots) - 1)
    slots[slot] = distinct
    spans[distinct - UNKNOWN - 1, 0] = start
    spans[distinct - UNKNOWN - 1, 1] = end
    return distinct
