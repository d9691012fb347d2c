"""Streams that an engine keeps for clients that have lost their connection."""

from typing import Annotated

import msgspec
from msgspec import Meta


class Keep(msgspec.Struct, frozen=True, array_like=True):
    """How a sequence of a stream is kept for a client that has lost its connection.

    Attributes:
        names: By which the stream is found, as digests; the same for all its sequences.
        index: Which of the stream's sequences it is.
        seconds: How long it is kept without a reader, whether it runs or has ended.
        request: What a frontend needs to read the sequence, opaque to the engine; with index 0.
        joins: Take over the kept sequence from its reader, instead of starting one.
    """

    names: list[bytes]
    index: int
    seconds: Annotated[float, Meta(gt=0)]
    request: bytes = b""
    joins: bool = False


class Claim(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Ask for the kept stream of a name. Its sequences lose their readers, and go on."""

    id: int
    name: bytes


class Claimed(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """The answer to a claim.

    Attributes:
        request: `Keep.request`, if the engine has the sequence with index 0.
        counted: By the indexes of the sequences that the engine has: how many tokens of each were
            generated while somebody read it who counts them; -1 if nobody has counted anything.
    """

    id: int
    request: bytes = b""
    counted: dict[int, int] = msgspec.field(default_factory=dict)
