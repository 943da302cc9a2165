"""Encodes and decodes `tf.train.Example` without TensorFlow: integer and bytes features.

The messages are defined in tensorflow/core/example/{example,feature}.proto; FloatList is left out.
"""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
from google.protobuf import descriptor_pb2, descriptor_pool, json_format, message_factory
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

Feature = NDArray[np.integer[Any]] | list[bytes]


def _make_field(name: str, number: int, kind: str, label: str = "OPTIONAL") -> dict[str, Any]:
    field = {"name": name, "number": number, "label": f"LABEL_{label}", "type": f"TYPE_{kind}"}
    if not kind.isupper():
        field |= {"type": "TYPE_MESSAGE", "typeName": f".mswitch.{kind}"}
    return field


def _make_message_classes() -> list[Any]:
    # Messages and packed lists are both encoded as bytes. NumPy reads integers from bytes, so
    # Python makes no object for each integer. This saves a sixth of a batch's time.
    kinds = [_make_field("bytes_list", 1, "BytesList"), _make_field("int64_list", 3, "BYTES")]
    entry = [_make_field("key", 1, "STRING"), _make_field("value", 2, "Feature")]
    nested = {"name": "FeatureEntry", "field": entry, "options": {"mapEntry": True}}
    features = [_make_field("feature", 1, "Features.FeatureEntry", "REPEATED")]
    messages = [
        {"name": "BytesList", "field": [_make_field("value", 1, "BYTES", "REPEATED")]},
        {"name": "Int64List", "field": [_make_field("value", 1, "INT64", "REPEATED")]},
        {"name": "PackedList", "field": [_make_field("value", 1, "BYTES")]},
        {
            "name": "Feature",
            "field": [{**kind, "oneofIndex": 0} for kind in kinds],
            "oneofDecl": [{"name": "kind"}],
        },
        {"name": "Features", "field": features, "nestedType": [nested]},
        {"name": "Example", "field": [_make_field("features", 1, "Features")]},
    ]
    file = {"name": "mswitch/example.proto", "package": "mswitch", "syntax": "proto3"}
    # Use a separate pool: the default one may have TensorFlow's messages.
    pool = descriptor_pool.DescriptorPool()
    proto = descriptor_pb2.FileDescriptorProto()
    pool.Add(json_format.ParseDict({**file, "messageType": messages}, proto))
    return [
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"mswitch.{name}"))
        for name in ("Example", "Int64List", "PackedList")
    ]


_Example, _Int64List, _PackedList = _make_message_classes()


def encode_example(features: Mapping[str, Feature]) -> bytes:
    """Serialise an Example; equal features have equal bytes."""
    example = _Example()
    for name, values in features.items():
        feature = example.features.feature[name]
        if isinstance(values, list):
            feature.bytes_list.value.extend(values)
        else:
            feature.int64_list = _Int64List(value=values.tolist()).SerializeToString()
    return example.SerializeToString(deterministic=True)


def _decode_integers(packed: bytes) -> NDArray[np.int64]:
    """Decode varints (protobuf's encoding guide)."""
    raw = np.frombuffer(packed, np.uint8)
    last = np.flatnonzero(raw < 0x80)
    before = np.empty_like(last)
    before[:1], before[1:] = -1, last[:-1]
    lengths = last - before
    if raw.size and (not last.size or last[-1] != raw.size - 1 or lengths.max() > 10):
        raise ValueError("an integer is cut off or too long")
    values = raw[last].astype(np.uint64)
    for back in range(1, lengths.max(initial=0)):
        longer = np.flatnonzero(lengths > back)
        values[longer] = values[longer] << np.uint64(7) | raw[last[longer] - back] & 0x7F
    return values.view(np.int64)


def decode_example(data: bytes, names: Collection[str] | None = None) -> dict[str, Feature]:
    """Parse an Example of integer and bytes features: those in `names`, by default all.

    Raises:
        ValueError: the bytes are not such an Example.
    """
    features: dict[str, Feature] = {}
    try:
        for name, feature in _Example.FromString(data).features.feature.items():
            if names is None or name in names:
                if feature.HasField("bytes_list"):
                    features[name] = list(feature.bytes_list.value)
                else:
                    features[name] = _decode_integers(
                        _PackedList.FromString(feature.int64_list).value
                    )
    except DecodeError as error:
        raise ValueError(str(error)) from error
    return features
