"""The worst single bodies: a path and how its body is made."""

import gzip
import json
import random
from collections.abc import Callable

SIZE = 8 * 1024 * 1024 - 1000  # just below `server.max_body_bytes`
CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
_USER = {"role": "user", "content": "a"}
_CALL = '{"type":"function_call","call_id":"a","name":"a","arguments":""}'


def repeated(before: str, item: str, after: str, size: int = SIZE) -> bytes:
    """Return a body with as many items as fit."""
    return (before + ",".join([item] * (size // (len(item) + 1))) + after).encode()


def words(size: int = SIZE) -> str:
    """Return a text of hexadecimal words, of which none is twice in it."""
    picked = random.Random(1)
    return " ".join(f"{picked.getrandbits(32):08x}" for _ in range(size // 9))


def body(**fields: object) -> bytes:
    """Return a body of JSON."""
    return json.dumps(fields, ensure_ascii=False).encode()


def chat(content: object, **fields: object) -> tuple[str, bytes]:
    """Return a chat of one message."""
    return CHAT, body(messages=[{"role": "user", "content": content}], **fields)


def _called(arguments: str) -> tuple[str, bytes]:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return CHAT, body(messages=[_USER, {"role": "assistant", "tool_calls": [call]}])


# An unknown field, of numbers for each of which msgspec takes 8 µs.
_NUMBERS = '{"messages":[{"role":"user","content":"a"}],"max_tokens":1,"a":['
_ENUM = '{"enum":[' + "1," * (SIZE // 2) + "1]}"
BODIES: dict[str, Callable[[], tuple[str, bytes]]] = {
    "enum": lambda: (CHAT, repeated(
        '{"messages":[{"role":"user","content":"a"}],"response_format":{"type":"json_schema",'
        '"json_schema":{"name":"x","schema":{"enum":[', "1", "]}}}}")),
    "calls": lambda: (RESPONSES, repeated('{"input":[', _CALL, "]}")),
    "parts": lambda: (CHAT, repeated(
        '{"messages":[{"role":"user","content":[', '{"type":"text","text":""}', "]}]}")),
    "messages": lambda: (CHAT, repeated(
        '{"messages":[', '{"role":"user","content":""}', "]}")),
    "most messages": lambda: (CHAT, repeated(
        '{"messages":[', '{"role":"user","content":""}', "]}", 400_000)),
    "most calls": lambda: (RESPONSES, repeated('{"input":[', _CALL, "]}", 480_000)),
    "unknown fields": lambda: (CHAT, repeated(
        '{"messages":[', '{"role":"user","content":"a","unknown":1}', "]}", 450_000)),
    "words": lambda: chat(words()),
    "one word": lambda: chat("a" * SIZE),
    "characters": lambda: chat("中" * (SIZE // 3)),
    "special tokens": lambda: chat("<|end|>" * (SIZE // 8)),
    "prompt": lambda: ("/v1/completions", body(prompt=words())),
    "cut prompt": lambda: ("/v1/completions", body(prompt=words(), truncate_prompt_tokens=9)),
    "oldest dropped": lambda: (RESPONSES, body(
        input=[{"role": "user", "content": "a b " * 200}] * 9000, truncation="auto")),
    "schema as text": lambda: chat("a", structured_outputs={"json": _ENUM}),
    "arguments as text": lambda: _called(_ENUM.replace("enum", "a")),
    "tokenised": lambda: ("/tokenize", body(prompt=words())),
    "counted": lambda: ("/v1/messages/count_tokens", body(
        messages=[{"role": "user", "content": words()}])),
    "no JSON": lambda: (CHAT, b'{"messages":' + b"\0" * SIZE),
    "a wrong text": lambda: (CHAT, b'"' + b"\\n" * (SIZE // 2) + b'"'),
    "slow numbers": lambda: (CHAT, repeated(_NUMBERS, "1e300", "]}", 499_000 * 6)),
    "slow numbers on the loop": lambda: (CHAT, repeated(_NUMBERS, "1e300", "]}", 60_000)),
    "a long number": lambda: (CHAT, b'{"n":' + b"9" * SIZE + b"}"),
}  # fmt: skip


def compressed() -> bytes:
    """Return a chat that is 8 MB once it is decompressed, in a few KB."""
    return gzip.compress(chat("a" * SIZE)[1])
