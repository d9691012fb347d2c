"""Vectors as responses carry them."""

import base64
import math
import struct
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate.frontend.apis.openai.vectors import Encoding, encode_vector

FLOATS = st.lists(st.floats(width=32), min_size=1, max_size=8)


def packed(values, dtype, *, big_endian=False):
    encoding = Encoding(as_base64=True, dtype=dtype, big_endian=big_endian)
    text = encode_vector(array("f", values).tobytes(), encoding)
    return base64.b64decode(text)


def same(a, b):
    return (math.isnan(a) and math.isnan(b)) or (
        a == b and math.copysign(1, a) == math.copysign(1, b)
    )


@given(FLOATS)
def test_numbers_and_float32_are_exact(values):
    assert all(map(same, encode_vector(array("f", values).tobytes(), Encoding()), values))
    little = struct.unpack(f"<{len(values)}f", packed(values, "float32"))
    big = struct.unpack(f">{len(values)}f", packed(values, "float32", big_endian=True))
    assert all(map(same, little, values))
    assert all(map(same, big, values))


@given(FLOATS)
def test_float16_is_the_nearest(values):
    for value, got in zip(
        values, struct.unpack(f"<{len(values)}e", packed(values, "float16")), strict=True
    ):
        if math.isnan(value):
            assert math.isnan(got)
        elif abs(value) >= 65520:
            assert got == math.copysign(math.inf, value)
        else:
            assert same(got, struct.unpack("<e", struct.pack("<e", value))[0])


@given(FLOATS)
def test_bfloat16_is_the_nearest(values):
    for value, got in zip(values, widened(packed(values, "bfloat16")), strict=True):
        if math.isnan(value):
            assert math.isnan(got)
        elif math.isfinite(got):
            # Within half of what separates two numbers of 8 significant bits.
            exponent = max(math.frexp(value)[1], -125)
            assert abs(got - value) <= math.ldexp(1, exponent - 9)
        else:
            assert got == math.copysign(math.inf, value)


@pytest.mark.parametrize(
    ("bits", "rounded"),
    [
        (0x3F80_0000, 0x3F80),
        (0x3F80_7FFF, 0x3F80),
        (0x3F80_8000, 0x3F80),  # a tie goes to the even one
        (0x3F81_8000, 0x3F82),
        (0x3F80_8001, 0x3F81),
        (0x7F7F_FFFF, 0x7F80),  # the largest becomes infinite
        (0xFF80_0000, 0xFF80),
        (0x7F80_0001, 0x7FC0),  # a NaN whose bits are all in the lower half
    ],
)
def test_bfloat16_rounds_to_even(bits, rounded):
    values = array("f", struct.pack("<I", bits))
    encoding = Encoding(as_base64=True, dtype="bfloat16")
    text = encode_vector(values.tobytes(), encoding)
    assert struct.unpack("<H", base64.b64decode(text)) == (rounded,)


def widened(half):
    return array("f", array("I", [bits << 16 for bits in array("H", half)]).tobytes())


def test_the_length_becomes_one():
    unit = Encoding(unit_length=True)
    assert encode_vector(array("f", [3, 4]).tobytes(), unit) == pytest.approx([0.6, 0.8])
    assert encode_vector(array("f", [0, 0]).tobytes(), unit) == [0, 0]
    nearly = array("f", [0.6, 0.8000001])
    assert encode_vector(nearly.tobytes(), unit) == nearly.tolist()
