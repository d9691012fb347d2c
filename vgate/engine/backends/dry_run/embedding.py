"""Simulated embeddings, and scores made of them. Pure."""

import hashlib
import math
from array import array
from operator import mul

from vgate.engine.request import RequestError
from vgate.wire.parameters import Classify

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


def classify(prompt: list[int], how: Classify, classes: int) -> bytes:
    """Return a number for each class, float32 and little-endian.

    They are probabilities, of one class from 0 to 1: the nearer the two texts of the prompt are to
    each other, the higher. A text alone is compared with what is always the same for each class.
    """
    first, second = prompt[: how.second_from], prompt[how.second_from or 0 :]
    one = array("f", embed(first if classes == 1 else prompt, None))
    others = [second] if classes == 1 else [[number] for number in range(classes)]
    # The cosine of each pair, from 0 to 1. The logarithm's argument must not be 0.
    near = [(1 + sum(map(mul, one, array("f", embed(other, None))))) / 2 for other in others]
    near = [min(1 - 1e-6, max(1e-6, value)) for value in near]
    whole = sum(near) if classes > 1 else 1.0
    values = [value / whole for value in near]
    if not how.activation:
        values = [math.log(value / (1 - value)) for value in values]
    return array("f", values).tobytes()
