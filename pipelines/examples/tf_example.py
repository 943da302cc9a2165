"""`tf.train.Example` without TensorFlow: integer and bytes features, encoded and decoded.

Wire format (tensorflow/core/example/{example,feature}.proto): an Example holds Features (field 1),
Features a map of name to Feature (field 1, entries with key 1 and value 2), and a Feature one of
BytesList (1), FloatList (2), Int64List (3), whose values are field 1, integers packed.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Feature = NDArray[np.integer[Any]] | list[bytes]

_LENGTH_DELIMITED = 2
_BYTES_LIST, _INT64_LIST = 1, 3


def _varint(value: int) -> bytes:
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _field(number: int, payload: bytes) -> bytes:
    return b"".join((_varint(number << 3 | _LENGTH_DELIMITED), _varint(len(payload)), payload))


def encode_varints(values: NDArray[np.integer[Any]]) -> bytes:
    """Encode integers one after another; negative ones take ten bytes, as protobuf has it."""
    rest = values.astype(np.int64).view(np.uint64)
    if rest.size < 16:
        return b"".join(map(_varint, rest.tolist()))
    largest = int(rest.max())
    if largest < 1 << 28:  # tokens: narrow integers take a third of the time
        rest = rest.astype(np.uint32)
    width = max((largest.bit_length() + 6) // 7, 1)
    groups = np.empty((rest.size, width), np.uint8)
    needed = np.ones((rest.size, width), np.bool_)
    for place in range(width):
        groups[:, place] = rest & 0x7F
        rest >>= 7
        if place + 1 < width:
            more = rest != 0
            groups[:, place] |= more.view(np.uint8) << 7
            needed[:, place + 1] = more
    return groups[needed].tobytes()


def decode_varints(data: bytes | memoryview) -> NDArray[np.int64]:
    """Decode what `encode_varints` wrote.

    Raises:
        ValueError: the last integer is cut off, or one is longer than ten bytes.
    """
    raw = np.frombuffer(data, np.uint8)
    if not raw.size:
        return np.zeros(0, np.int64)
    ends = np.flatnonzero(raw < 0x80)
    if not ends.size or ends[-1] != raw.size - 1:
        raise ValueError("an integer is cut off")
    lengths = ends + 1
    lengths[1:] -= lengths[:-1].copy()
    longest = int(lengths.max())
    if longest > 10:
        raise ValueError("an integer is longer than ten bytes")
    values = raw[ends].astype(np.uint64)
    for back in range(1, longest):  # tokens have up to three bytes
        longer = np.flatnonzero(lengths > back)
        values[longer] = values[longer] << np.uint64(7) | raw[ends[longer] - back] & 0x7F
    return values.view(np.int64)


def _encode_feature(values: Feature) -> bytes:
    if isinstance(values, list):
        return _field(_BYTES_LIST, b"".join(_field(1, value) for value in values))
    return _field(_INT64_LIST, _field(1, encode_varints(values)) if values.size else b"")


def encode_example(features: Mapping[str, Feature]) -> bytes:
    """Serialise an Example; names are sorted, so equal features give equal bytes."""
    entries = (
        _field(1, _field(1, name.encode()) + _field(2, _encode_feature(features[name])))
        for name in sorted(features)
    )
    return _field(1, b"".join(entries))


def _read_varint(data: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= len(data) or shift > 63:
            raise ValueError("a length or tag is cut off")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(data: memoryview) -> list[tuple[int, memoryview]]:
    """Number and payload of each length-delimited field of one message."""
    found, at, end = [], 0, len(data)
    while at < end:
        tag = data[at]
        if tag < 0x80:  # nearly always; a call would take longer than all else here
            at += 1
        else:
            tag, at = _read_varint(data, at)
        if tag & 7 != _LENGTH_DELIMITED:
            raise ValueError(f"wire type {tag & 7} where a length-delimited field was expected")
        size, at = _read_varint(data, at)
        if at + size > end:
            raise ValueError("a field is cut off")
        found.append((tag >> 3, data[at : at + size]))
        at += size
    return found


def _decode_feature(data: memoryview) -> Feature:
    values: list[bytes] = []
    integers: list[NDArray[np.int64]] = []
    kinds = _fields(data)
    for kind, payload in kinds:
        for number, item in _fields(payload):
            if number != 1:
                raise ValueError(f"unknown field {number} in a list")
            if kind == _BYTES_LIST:
                values.append(bytes(item))
            elif kind == _INT64_LIST:
                integers.append(decode_varints(item))
            else:
                raise ValueError("only integer and bytes features are read here")
    if kinds and kinds[-1][0] == _BYTES_LIST:
        return values
    if len(integers) == 1:
        return integers[0]
    return np.concatenate(integers) if integers else np.zeros(0, np.int64)


def decode_example(data: bytes, names: Collection[str] | None = None) -> dict[str, Feature]:
    """Parse an Example of integer (packed) and bytes features.

    Args:
        data: a serialised Example.
        names: features to decode; by default all.

    Raises:
        ValueError: the bytes are not such an Example.
    """
    features: dict[str, Feature] = {}
    for number, message in _fields(memoryview(data)):
        if number != 1:
            raise ValueError(f"unknown field {number} in an Example")
        for _, entry in _fields(message):
            parts = dict(_fields(entry))
            name = bytes(parts[1]).decode()
            if names is None or name in names:
                features[name] = _decode_feature(parts.get(2, memoryview(b"")))
    return features
