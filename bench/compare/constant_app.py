"""The smallest application that granian can serve, and the answer of servers without a model.

FastAPI's environment imports this too, so it uses the standard library alone.
"""

import json
import os
from typing import Any

_WORDS = ("it ", "is ", "so ", "as ", "we ", "do ", "or ", "by ")
_BODY = os.environ.get("COMPARE_BODY", "{}").encode()
_HEADERS = [("content-type", "application/json")]


async def app(_scope: Any, protocol: Any) -> None:
    """Answer without looking at the request."""
    protocol.response_bytes(200, _HEADERS, _BODY)


def chunks_of(tokens: int) -> list[str]:
    """Return the pieces of an answer: three characters each, as LiteLLM cuts its own."""
    return [_WORDS[number % len(_WORDS)] for number in range(tokens)]


def usage_of(tokens: int) -> dict[str, int]:
    """Return token counts for an answer of that length."""
    return {"prompt_tokens": 64, "completion_tokens": tokens, "total_tokens": 64 + tokens}


def whole_answer(tokens: int) -> str:
    """Return the body of a chat completion."""
    message = {"role": "assistant", "content": "".join(chunks_of(tokens))}
    body = {
        "id": "chatcmpl-0123456789abcdef0123456789abcdef",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "tiny",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "length"}],
        "usage": usage_of(tokens),
    }
    return json.dumps(body, separators=(",", ":"))
