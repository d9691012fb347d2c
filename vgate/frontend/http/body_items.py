"""Counts what a body's decoding would make, before it makes it.

Decoding takes 30 to 150 ns for each object, list or text, and 25 for a number, and nothing else can
run meanwhile. Both limits together make it about 20 ms for the defaults.
"""

import asyncio

import msgspec

from vgate.errors import PayloadTooLargeError

# Numbers, such as token ids, cost a fifth of an object.
NUMBERS_PER_ITEM = 5
# Takes up to a millisecond.
_SLICE_BYTES = 65_536

_parts = msgspec.json.Decoder(dict[str, msgspec.Raw])


async def check_items(body: bytes, most: int) -> None:
    """Check how many objects, lists, texts and other values a body has, between other tasks.

    What isn't JSON may pass; its decoding ends where it goes wrong.

    Raises:
        PayloadTooLargeError: They are more than `most`; names the largest field.
    """
    if len(body) <= most:  # each takes a byte at least
        return
    # Each object, list and text counts two: a text has two quotes.
    ends = values = 0
    in_text = is_escaped = False
    for start in range(0, len(body), _SLICE_BYTES):
        given = body[start + is_escaped : start + _SLICE_BYTES]
        plain = given.replace(b"\\\\", b"").replace(b'\\"', b"")
        is_escaped = plain.endswith(b"\\")
        parts = plain.split(b'"')
        outside = b"".join(parts[in_text::2])
        in_text ^= not len(parts) & 1
        groups = outside.count(b"{") + outside.count(b"[")
        ends += len(parts) - 1 + 2 * groups
        values += groups + outside.count(b",")
        if ends > 2 * most or values > NUMBERS_PER_ITEM * most:
            raise _too_many(body, most)
        await asyncio.sleep(0)


def _too_many(body: bytes, most: int) -> PayloadTooLargeError:
    message = (
        f"it has more than {most} objects, lists and texts, or more than "
        f"{NUMBERS_PER_ITEM * most} values (server.max_items)"
    )
    try:
        fields = _parts.decode(body)
        largest = max(fields, key=lambda name: len(fields[name]))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ValueError):
        return PayloadTooLargeError(f"the body is too large: {message}")
    return PayloadTooLargeError(f"`{largest}` is too large: {message}", param=largest)
