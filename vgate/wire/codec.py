"""Encoding and decoding of messages. Malformed bytes raise `WireError` and nothing else."""

import sys
from array import array
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from vgate.wire.control import LauncherToEngine, LauncherToFrontend, Probed, Reloaded, ToLauncher
from vgate.wire.messages import ToEngine, ToFrontend

_TOKEN_ID_BYTES = 4
# Bytes from an unknown sender may also hold invalid UTF-8, or endless nesting.
_UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

encode = msgspec.msgpack.Encoder().encode


class WireError(Exception):
    """The bytes are not a message of this direction."""


def _decoder(messages: Any) -> Callable[[bytes], Any]:
    decode = msgspec.msgpack.Decoder(messages).decode

    def checked(payload: bytes) -> Any:
        try:
            return decode(payload)
        except _UNDECODABLE as error:
            raise WireError(str(error)) from None

    return checked


_decode_anything = _decoder(Any)

decode_to_engine: Callable[[bytes], ToEngine] = _decoder(ToEngine)
# Not typed, because mypy does not narrow a union by `type(message) is Step`.
decode_to_frontend = _decoder(ToFrontend)
decode_to_launcher: Callable[[bytes], ToLauncher] = _decoder(ToLauncher)
decode_launcher_to_frontend: Callable[[bytes], LauncherToFrontend] = _decoder(LauncherToFrontend)
decode_launcher_to_engine: Callable[[bytes], LauncherToEngine] = _decoder(LauncherToEngine)
decode_reloaded: Callable[[bytes], Reloaded] = _decoder(Reloaded)
decode_probed: Callable[[bytes], Probed] = _decoder(Probed)


def number_of_request(payload: bytes) -> int | None:
    """Return the number of a request that `decode_to_engine` refuses; None if it is none."""
    try:
        match _decode_anything(payload):
            case ["Generate" | "Embed", int(number), *_]:
                return number
    except WireError:
        pass
    return None


class PackedIds(list[int]):
    """Token ids that nobody changes any more, with what `pack_token_ids` makes of them.

    Attributes:
        packed: The ids as little-endian uint32.
    """

    __slots__ = ("packed",)

    packed: bytes


def pack_token_ids(token_ids: Sequence[int]) -> bytes:
    """Pack token ids as little-endian uint32."""
    if type(token_ids) is PackedIds and len(token_ids.packed) == len(token_ids) * _TOKEN_ID_BYTES:
        return token_ids.packed
    packed = array("I", token_ids)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack_token_ids(packed: bytes) -> list[int]:
    """Return the token ids that `pack_token_ids` packed."""
    if len(packed) % _TOKEN_ID_BYTES:
        raise WireError(
            f"packed token ids have {len(packed)} bytes, not a multiple of {_TOKEN_ID_BYTES}"
        )
    ids = array("I", packed)
    if sys.byteorder == "big":
        ids.byteswap()
    return ids.tolist()
