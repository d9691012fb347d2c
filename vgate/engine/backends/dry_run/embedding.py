"""Simulated embeddings. Pure."""

import hashlib
import math
from array import array

from vgate.engine.request import RequestError

# One bit of a blake2b digest (at most 512 bits) is the sign in one dimension.
DIMENSIONS = 384
_DIGEST_BYTES = DIMENSIONS // 8
_NGRAM_LENGTHS = (3, 4)


def check_dimensions(asked: int | None) -> None:
    """Raise RequestError if a request asks for more dimensions than there are."""
    if asked is not None and asked > DIMENSIONS:
        reason = f"must be at most {DIMENSIONS}, got {asked}"
        raise RequestError("invalid_value", reason, "dimensions")


def embed(prompt: list[int], dimensions: int | None) -> bytes:
    """Return the vector of a text: float32, little-endian, of length 1.

    It is the sum of one pseudo-random sign vector for each of the text's distinct token n-grams, so
    the more of them two texts share, the closer they are.
    """
    ngrams = {
        tuple(prompt[start : start + size])
        for size in _NGRAM_LENGTHS
        for start in range(max(1, len(prompt) - size + 1))
    }
    # An n-gram's sign vector is the bits of its digest: count the ones in each dimension.
    ones = [0] * DIMENSIONS
    for ngram in ngrams:
        packed = array("I", ngram).tobytes()
        digest = hashlib.blake2b(packed, digest_size=_DIGEST_BYTES).digest()
        bits = int.from_bytes(digest, "big")
        for dimension in range(DIMENSIONS):
            ones[dimension] += bits >> dimension & 1
    values = [2 * count - len(ngrams) for count in ones[:dimensions]]
    norm = math.sqrt(sum(value * value for value in values)) or 1.0
    vector = array("f", [value / norm for value in values])
    return vector.tobytes()
