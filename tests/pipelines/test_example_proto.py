import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mswitch.pipelines.examples.example_proto import decode_example, encode_example

INTEGERS = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=50)


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
def test_damage_is_a_value_error_or_another_example(noise, cut):
    good = encode_example({"targets": np.arange(40), "document": [b"abc"]})
    for data in (noise, good[:cut], good[:cut] + noise + good[cut + len(noise) :]):
        try:
            decode_example(data)
        except ValueError:
            continue


def test_cut_off_examples_are_refused():
    good = encode_example({"targets": np.arange(40)})
    for cut in range(1, len(good)):
        with pytest.raises(ValueError, match=r"parsing|cut off"):
            decode_example(good[:cut])
    for integer in (b"\x80", b"\x80" * 10 + b"\x00"):
        with pytest.raises(ValueError, match="cut off or too long"):
            decode_example(example_of(integer))


def example_of(integer: bytes) -> bytes:
    """An example of one feature of one integer, which need not be valid."""
    message = b"\x0a" + bytes([len(integer)]) + integer
    for prefix in (b"\x1a", b"\x0a\x01a\x12", b"\x0a", b"\x0a"):
        message = prefix + bytes([len(message)]) + message
    return message
