"""Encoding and decoding of the wire's messages. Malformed bytes raise `WireError`, nothing else."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence

import msgspec

from vgate.wire.control import FromLauncher, ToLauncher
from vgate.wire.messages import ToEngine, ToFrontend

_TOKEN_ID_BYTES = 4

_encoder = msgspec.msgpack.Encoder()
_to_engine: msgspec.msgpack.Decoder[ToEngine] = msgspec.msgpack.Decoder(ToEngine)
_to_frontend: msgspec.msgpack.Decoder[ToFrontend] = msgspec.msgpack.Decoder(ToFrontend)
_to_launcher: msgspec.msgpack.Decoder[ToLauncher] = msgspec.msgpack.Decoder(ToLauncher)
_from_launcher: msgspec.msgpack.Decoder[FromLauncher] = msgspec.msgpack.Decoder(FromLauncher)

encode = _encoder.encode

# Bytes from an unknown sender may also hold invalid UTF-8, or nesting without end.
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class WireError(Exception):
    """The bytes are not a message of this direction."""


def decode_to_engine(payload: bytes) -> ToEngine:
    """Decode a frontend's message."""
    try:
        return _to_engine.decode(payload)
    except _UNDECODABLE as error:
        raise WireError(str(error)) from None


def decode_to_frontend(payload: bytes) -> ToFrontend:
    """Decode an engine's message."""
    try:
        return _to_frontend.decode(payload)
    except _UNDECODABLE as error:
        raise WireError(str(error)) from None


def decode_to_launcher(payload: bytes) -> ToLauncher:
    """Decode a child's control message."""
    try:
        return _to_launcher.decode(payload)
    except _UNDECODABLE as error:
        raise WireError(str(error)) from None


def decode_from_launcher(payload: bytes) -> FromLauncher:
    """Decode the launcher's control message."""
    try:
        return _from_launcher.decode(payload)
    except _UNDECODABLE as error:
        raise WireError(str(error)) from None


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
