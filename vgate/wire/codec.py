"""Encoding and decoding of messages. Malformed bytes raise `WireError` and nothing else."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from vgate.wire.control import LauncherToEngine, LauncherToFrontend, ToLauncher
from vgate.wire.messages import ToEngine, ToFrontend

_TOKEN_ID_BYTES = 4

_encoder = msgspec.msgpack.Encoder()
encode = _encoder.encode

# Bytes from an unknown sender may also hold invalid UTF-8, or nesting without end.
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

_Message = TypeVar("_Message")


class WireError(Exception):
    """The bytes are not a message of this direction."""


def _decoder(decoder: msgspec.msgpack.Decoder[_Message]) -> Callable[[bytes], _Message]:
    decode = decoder.decode

    def checked(payload: bytes) -> _Message:
        try:
            return decode(payload)
        except _UNDECODABLE as error:
            raise WireError(str(error)) from None

    return checked


# One for each direction.
decode_to_engine = _decoder(msgspec.msgpack.Decoder[ToEngine](ToEngine))
decode_to_frontend = _decoder(msgspec.msgpack.Decoder[ToFrontend](ToFrontend))
decode_to_launcher = _decoder(msgspec.msgpack.Decoder[ToLauncher](ToLauncher))
decode_launcher_to_frontend = _decoder(
    msgspec.msgpack.Decoder[LauncherToFrontend](LauncherToFrontend)
)
decode_launcher_to_engine = _decoder(msgspec.msgpack.Decoder[LauncherToEngine](LauncherToEngine))


def pack_token_ids(token_ids: Sequence[int]) -> bytes:
    """Pack token ids as little-endian uint32."""
    packed = array("I", token_ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_token_ids(packed: bytes) -> list[int]:
    """Return the token ids that `pack_token_ids` packed."""
    if len(packed) % _TOKEN_ID_BYTES:
        message = f"packed token ids have {len(packed)} bytes, not a multiple of {_TOKEN_ID_BYTES}"
        raise WireError(message)
    ids = array("I")
    ids.frombytes(packed)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tolist()
