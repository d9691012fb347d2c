"""The input of a tool call, of the JSON text that the model wrote."""

from __future__ import annotations

import re
from typing import Any

import msgspec

# Where Anthropic's documentation has clients put arguments that aren't JSON, so that the model gets
# to see them (its page on fine-grained tool streaming).
INVALID_KEY = "INVALID_JSON"

_STRING = r'"(?:[^"\\]|\\.)*'
_SPACES = re.compile(r"\s*")
_TOKEN = re.compile(rf'{_STRING}"|[{{}}\[\],:]|[^\s{{}}\[\],:"]+', re.DOTALL)
# What may be left of a value, or of a member of an object, that the end cut.
_LEFT = rf'(?:{_STRING}(?:"|\\)?|[-+.\w]*)'
_TAIL = re.compile(rf'\s*(?:,\s*)?(?:{_STRING}"\s*:\s*{_LEFT}|{_LEFT})\s*', re.DOTALL)
_CLOSERS = {"{": "}", "[": "]"}
# Deeper is no tool's input. Decoders have limits of their own, which differ from Python to Python.
_MAX_NESTING = 200

_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


def tool_input(arguments: str) -> msgspec.Raw:
    """Return a call's arguments as an object, whatever the model wrote.

    Arguments that were cut are what is complete of them, as in the client library's stream. What
    isn't a JSON object at all becomes one with the text in it, so that no tool runs on arguments
    that nobody gave.
    """
    if not arguments.strip():
        return msgspec.Raw(b"{}")
    for text in (arguments, _completed(arguments)):
        if text is not None and _is_object(text):
            return msgspec.Raw(text.encode())
    return msgspec.Raw(msgspec.json.encode({INVALID_KEY: arguments}))


def _is_object(text: str) -> bool:
    try:
        _decode_object(text)
    except (msgspec.DecodeError, UnicodeEncodeError, RecursionError):
        return False
    return True


def _completed(text: str) -> str | None:
    """Return cut JSON with its open ends closed; None if it isn't the beginning of JSON."""
    open_: list[str] = []
    # How far the text is complete, and what closes it there.
    end, closers = 0, ""
    at, before = 0, ""
    while token := _TOKEN.match(text, _SPACES.match(text, at).end()):  # type: ignore[union-attr]
        at, word = token.end(), token[0]
        if word in _CLOSERS:
            open_.append(_CLOSERS[word])
            if len(open_) > _MAX_NESTING:
                return None
        elif word in {"}", "]"}:
            if not open_ or open_.pop() != word:
                return None
        elif word in {",", ":"} or not _is_value(word, before, open_):
            before = word
            continue
        end, closers, before = at, "".join(reversed(open_)), word
    if not closers or not _TAIL.fullmatch(text, end):
        return None
    return text[:end] + closers


def _is_value(word: str, before: str, open_: list[str]) -> bool:
    """Whether a string or scalar is a complete value, and not a member's name."""
    if not open_ or before not in ({":"} if open_[-1] == "}" else {"[", ","}):
        return False
    try:
        msgspec.json.decode(word)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return False
    return True
