"""The formats of embeddings in responses: JSON numbers, or packed numbers in base64."""

import base64
import math
import struct
from array import array

import msgspec

DTYPES = ("float32", "float16", "bfloat16")

# From this value on float16 rounds to infinity (IEEE 754, 4.3.1).
_FLOAT16_INFINITE = 65520.0
_FLOAT32_EXPONENT = 0x7F80_0000
_BFLOAT16_QUIET = 0x40
_UNIT_TOLERANCE = 1e-5


class Encoding(msgspec.Struct, frozen=True, kw_only=True):
    """The format of vectors; `dtype`, one of `DTYPES`, and `big_endian` only concern base64.

    `unit_length` scales the vectors to a length of 1.
    """

    as_base64: bool = False
    dtype: str = "float32"
    big_endian: bool = False
    unit_length: bool = False


def encode_vector(vector: bytes, encoding: Encoding) -> list[float] | str:
    """Return the JSON value of a vector that is given as little-endian float32."""
    values = array("f", vector)
    if encoding.unit_length:
        values = _unit(values)
    if not encoding.as_base64:
        return values.tolist()
    packed = _packed(values, encoding.dtype)
    if encoding.big_endian:
        packed.byteswap()
    return base64.b64encode(packed.tobytes()).decode()


def _packed(values: "array[float]", dtype: str) -> "array[float] | array[int]":
    if dtype == "float16":
        return array("H", struct.pack(f"={len(values)}e", *map(_finite16, values)))
    if dtype == "bfloat16":
        return array("H", map(_bfloat16, array("I", values.tobytes())))
    return values


def _unit(values: "array[float]") -> "array[float]":
    length = math.hypot(*values)
    # Scaling a vector that already has that length would only change its last bits.
    if length == 0 or math.isclose(length, 1, abs_tol=_UNIT_TOLERANCE):
        return values
    return array("f", [value / length for value in values])


def _finite16(value: float) -> float:
    """Return infinity where float16 has no finite value; packing would raise."""
    return math.copysign(math.inf, value) if abs(value) >= _FLOAT16_INFINITE else value


def _bfloat16(bits: int) -> int:
    """Round the bits of a float32 to their upper half, ties to even."""
    if bits & 0x7FFF_FFFF > _FLOAT32_EXPONENT:  # NaN stays NaN
        return bits >> 16 | _BFLOAT16_QUIET
    return bits + 0x7FFF + (bits >> 16 & 1) >> 16
