"""The base of the messages between frontends and engines."""

from __future__ import annotations

import msgspec


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Base of all messages; its class name is the tag, its fields travel as an array."""
