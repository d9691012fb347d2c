"""What all messages between processes have in common."""

import msgspec


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Base of these messages: an array of the class name, which is the tag, and the fields."""
