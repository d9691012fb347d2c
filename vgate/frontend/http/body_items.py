"""Counts the values in a body before it is decoded, because nothing else can run meanwhile.

Decoding takes 30 to 100 ns for an object, list or text, up to 500 ns for a key, and 30 ns for a
number: up to 20 ms with the default limit.
"""

from collections.abc import Iterator
from contextlib import suppress

import msgspec

from vgate.errors import PayloadTooLargeError

# Numbers, such as token ids, cost a fifth of an object.
NUMBERS_PER_ITEM = 5
# Takes up to a millisecond.
_SLICE_BYTES = 65_536

# Finding the field at fault in a longer body would take longer.
_MAX_SEARCHED_BYTES = 4 * 1024 * 1024
# The fields of the APIs that may be large.
_NAMES = (
    *("messages", "input", "prompt", "tools", "documents", "system", "metadata", "logit_bias"),
    *("response_format", "structured_outputs", "chat_template_kwargs", "text", "stop", "tokens"),
)
_fields = msgspec.json.Decoder(
    msgspec.defstruct("_Fields", [(name, msgspec.Raw, msgspec.Raw()) for name in _NAMES])
)


def check_items(body: bytes, most: int) -> None:
    """Check how many values a body has, in pieces between which other threads may run.

    What isn't JSON may pass; its decoding ends where it goes wrong.

    Raises:
        PayloadTooLargeError: They are more than `most`; names the largest field.
    """
    for items, values in counted(body):
        if has_too_many(items, values, most):
            raise _too_many(body, most)


def has_too_many(items: int, values: int, most: int) -> bool:
    """Return whether a document that was counted to have so many has more than a limit allows."""
    return items > most or values > NUMBERS_PER_ITEM * most


def counted(document: bytes) -> Iterator[tuple[int, int]]:
    """Count what a JSON document would make, one slice after another.

    Yields:
        Objects, lists and texts so far, keys as two; and values of any kind without the keys.
    """
    items = values = quotes = 0
    is_escaped = False
    for start in range(0, len(document), _SLICE_BYTES):
        given = document[start + is_escaped : start + _SLICE_BYTES]
        plain = given.replace(b"\\\\", b"").replace(b'\\"', b"")
        is_escaped = plain.endswith(b"\\")
        parts = plain.split(b'"')
        # After an odd number of quotes a slice begins inside a text.
        outside = b"".join(parts[quotes & 1 :: 2])
        quotes += len(parts) - 1
        groups = outside.count(b"{") + outside.count(b"[")
        items += groups + outside.count(b":")
        values += groups + outside.count(b",")
        yield items + quotes // 2, values


def _too_many(body: bytes, most: int) -> PayloadTooLargeError:
    message = (
        f"it has more than {most} objects, lists, texts and keys, which count twice, or more than "
        f"{NUMBERS_PER_ITEM * most} values (server.max_items)"
    )
    largest = ""
    if len(body) <= _MAX_SEARCHED_BYTES:
        with suppress(msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            fields = _fields.decode(body)
            sizes = {name: len(getattr(fields, name)) for name in _NAMES}
            largest = max(sizes, key=sizes.__getitem__)
            if 2 * sizes[largest] < len(body):
                largest = ""
    name = f"`{largest}`" if largest else "the body"
    return PayloadTooLargeError(f"{name} is too large: {message}", param=largest or None)
