"""Log probabilities, packed. Both the engine and the frontends keep them for whole answers.

As Python numbers, those of 2,000 tokens with the twenty most likely ones at each are 90,000
objects: 3 MB, which take 3 ms to free.
"""

import struct
from collections.abc import Sequence

import msgspec

_BYTES = 4  # of an id, and of a log probability


class Logprobs(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Log probabilities (natural logarithms) at one position of a sequence.

    Attributes:
        token_ids: The sampled token, then the most likely ones in descending probability (the
            sampled one may appear twice): little-endian uint32.
        logprobs: Of these tokens: little-endian float32, in which models compute them.
        rank: Rank of the sampled token; 1 is the most likely.
    """

    token_ids: bytes
    logprobs: bytes
    rank: int

    @classmethod
    def of(cls, token_ids: Sequence[int], logprobs: Sequence[float], rank: int) -> "Logprobs":
        """Pack the values of one position."""
        count = len(token_ids)
        packed = struct.pack(f"<{count}I", *token_ids), struct.pack(f"<{count}f", *logprobs)
        return cls(*packed, rank)

    @property
    def token_id(self) -> int:
        """The sampled token."""
        return int.from_bytes(self.token_ids[:_BYTES], "little")

    def unpack(self, most: int | None = None) -> tuple[tuple[int, ...], tuple[float, ...]]:
        """Return the ids and the log probabilities, of no more than `most` tokens."""
        count = len(self.token_ids) // _BYTES
        if most is not None and most < count:
            count = most
        size = count * _BYTES
        ids = struct.unpack(f"<{count}I", self.token_ids[:size])
        return ids, struct.unpack(f"<{count}f", self.logprobs[:size])
