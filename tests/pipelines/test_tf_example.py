import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.examples.tf_example import (
    decode_example,
    decode_varints,
    encode_example,
    encode_varints,
)

INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50)


@given(INTEGERS)
def test_varints_come_back(values: list[int]):
    data = encode_varints(np.array(values, np.int64))
    assert decode_varints(data).tolist() == values


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, b"\x00"),
        (1, b"\x01"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (300, b"\xac\x02"),
        (-1, b"\xff" * 9 + b"\x01"),
    ],
)
def test_varints_of_the_protobuf_manual(value: int, encoded: bytes):
    assert encode_varints(np.array([value])) == encoded


@given(st.dictionaries(st.text(min_size=1), INTEGERS | st.lists(st.binary(), min_size=1)))
def test_examples_come_back(features):
    arrays = {
        name: np.array(values, np.int64) if not values or isinstance(values[0], int) else values
        for name, values in features.items()
    }
    decoded = decode_example(encode_example(arrays))
    assert {name: list(values) for name, values in decoded.items()} == features
    for name in features:
        [(found, values)] = decode_example(encode_example(arrays), {name}).items()
        assert (found, list(values)) == (name, features[name])


def test_order_of_features_does_not_matter():
    one, two = np.array([1]), np.array([2])
    assert encode_example({"a": one, "b": two}) == encode_example({"b": two, "a": one})


@given(st.binary(max_size=60), st.integers(0, 59))
def test_damage_is_a_value_error_or_another_example(noise: bytes, cut: int):
    good = encode_example({"targets": np.arange(40), "document": [b"abc"]})
    for data in (noise, good[:cut], good[:cut] + noise + good[cut + len(noise) :]):
        try:
            decode_example(data)
        except (ValueError, KeyError):
            continue


def test_cut_off_examples_are_refused():
    good = encode_example({"targets": np.arange(40)})
    for cut in range(1, len(good)):
        with pytest.raises((ValueError, KeyError)):
            decode_example(good[:cut])
    with pytest.raises(ValueError, match="cut off"):
        decode_varints(b"\x80")
    with pytest.raises(ValueError, match="longer than ten"):
        decode_varints(b"\x80" * 10 + b"\x00")
