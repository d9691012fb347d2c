"""The answer that a server without a model gives, in the API's shapes; standard library alone."""

import json
from typing import Any

_WORDS = ("it ", "is ", "so ", "as ", "we ", "do ", "or ", "by ")
_ID = "chatcmpl-0123456789abcdef0123456789abcdef"
_CREATED = 1_700_000_000


def chunks_of(tokens: int) -> list[str]:
    """Return the pieces of an answer: three characters each, the length of LiteLLM's own."""
    return [_WORDS[number % len(_WORDS)] for number in range(tokens)]


def usage_of(tokens: int) -> dict[str, int]:
    """Return token counts for an answer of that length."""
    return {"prompt_tokens": 64, "completion_tokens": tokens, "total_tokens": 64 + tokens}


def whole_answer(tokens: int) -> bytes:
    """Return the body of a chat completion."""
    message = {"role": "assistant", "content": "".join(chunks_of(tokens))}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}
    body = _head("chat.completion") | {"choices": [choice], "usage": usage_of(tokens)}
    return json.dumps(body, separators=(",", ":")).encode()


def _head(what: str) -> dict[str, Any]:
    return {"id": _ID, "object": what, "created": _CREATED, "model": "tiny"}
