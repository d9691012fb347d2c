"""Requests of the SDKs' suites. The dry-run engine answers with the last message."""

import json
from collections.abc import Iterable
from typing import Any

MODEL = "dry-run"
ALIAS = "dry-run-alias"
EMBEDDER = "embedder"
# Of the model, with a lock on the length of answers.
BRIEF = "dry-run-brief"
KEY = "sk-user"
LIMITED_KEY = "sk-limited"

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tell the weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}},
    },
}
TOOLS = [WEATHER, TIME]


def user(text: str) -> list[dict[str, Any]]:
    """Return a conversation to which the engine answers with `text`."""
    return [{"role": "user", "content": text}]


def call(name: str, **arguments: Any) -> str:
    """Return a tool call as the dry-run engine's model writes it."""
    body = json.dumps({"name": name, "arguments": arguments}, ensure_ascii=False)
    return f"<tool_call>{body}</tool_call>"


def text_of(chunks: Iterable[Any], index: int = 0) -> str:
    """Return the text of one choice of a stream."""
    return "".join(
        choice.delta.content or ""
        for chunk in chunks
        for choice in chunk.choices
        if choice.index == index
    )
