"""Checks that every answer has the clients' types or is a proper error."""

import json
from typing import Any
from urllib.parse import unquote

import anthropic.types
import msgspec
import openai.types
import openai.types.chat
import openai.types.responses
import pydantic

from tests.e2e.answer_content import content_of
from tests.e2e.keep_alive import Reply, events
from vgate.errors import CODES

# Nothing that a client sent is repeated at length.
MOST_ERROR_BYTES = 20_000
_MESSAGES = "/v1/messages"


class _Tokens(msgspec.Struct, forbid_unknown_fields=True):
    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str | None] | None = None


class _Text(msgspec.Struct, forbid_unknown_fields=True):
    prompt: str


class _Vector(msgspec.Struct):
    index: int
    object: str
    embedding: list[float] | str


class _Vectors(msgspec.Struct):
    data: list[_Vector]
    model: str
    object: str
    usage: dict[str, int]


class _Pooled(msgspec.Struct):
    index: int
    object: str
    data: list[float] | str


class _PooledVectors(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    created: int
    data: list[_Pooled]
    model: str
    object: str
    usage: dict[str, int]


class _Class(msgspec.Struct, forbid_unknown_fields=True):
    index: int
    label: str | None
    probs: list[float]
    num_classes: int


class _Classes(_PooledVectors):
    data: list[_Class]  # type: ignore[assignment]


class _Score(msgspec.Struct, forbid_unknown_fields=True):
    index: int
    object: str
    score: float


class _Scores(_PooledVectors):
    data: list[_Score]  # type: ignore[assignment]


class _Ranked(msgspec.Struct, forbid_unknown_fields=True):
    index: int
    relevance_score: float
    document: dict[str, str] | None = None


class _Ranking(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    model: str
    usage: dict[str, int]
    results: list[_Ranked]


class _OpenAIError(msgspec.Struct, forbid_unknown_fields=True):
    message: str
    type: str
    param: str | None
    code: str


class _OpenAIErrorBody(msgspec.Struct):
    error: _OpenAIError
    detail: str


class _AnthropicError(msgspec.Struct, forbid_unknown_fields=True):
    message: str
    type: str


class _AnthropicErrorBody(msgspec.Struct, forbid_unknown_fields=True):
    type: str
    error: _AnthropicError
    request_id: str


_MODELS: dict[str, type[pydantic.BaseModel]] = {
    "/v1/chat/completions": openai.types.chat.ChatCompletion,
    "/v1/completions": openai.types.Completion,
    "/v1/responses": openai.types.responses.Response,
    "/v1/messages": anthropic.types.Message,
    "/v1/messages/count_tokens": anthropic.types.MessageTokensCount,
}
_STRUCTS: dict[str, type[msgspec.Struct]] = {
    "/v1/embeddings": _Vectors,
    "/pooling": _PooledVectors,
    "/classify": _Classes,
    "/v1/score": _Scores,
    "/v1/rerank": _Ranking,
    "/tokenize": _Tokens,
    "/detokenize": _Text,
}
_EVENTS: dict[str, pydantic.TypeAdapter[Any]] = {
    "/v1/chat/completions": pydantic.TypeAdapter(openai.types.chat.ChatCompletionChunk),
    "/v1/responses": pydantic.TypeAdapter(openai.types.responses.ResponseStreamEvent),
    "/v1/messages": pydantic.TypeAdapter(anthropic.types.RawMessageStreamEvent),
}


def check_answer(path: str, reply: Reply) -> None:
    """Check an answer of status 200.

    Raises:
        Exception: It is not what a client of the path can read.
    """
    path = path.partition("?")[0].rstrip("/")
    if reply.is_stream:
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        if path in _EVENTS:
            for _, data in events(reply.body):
                if data != b"[DONE]":
                    _EVENTS[path].validate_json(data)
        content_of(path, reply)
        return
    assert reply.headers["content-type"] == "application/json"
    if path in _STRUCTS:
        msgspec.json.decode(reply.body, type=_STRUCTS[path])
    else:
        document = json.loads(reply.body)
        if path == "/v1/completions":
            _forget_the_first_token(document)
        _MODELS[path].model_validate(document)
        if path != "/v1/messages/count_tokens":
            content_of(path, reply)


def _forget_the_first_token(document: Any) -> None:
    """Remove the null before a prompt's first token, which the client's types don't allow."""
    for choice in document["choices"]:
        shown = choice["logprobs"]
        if shown and shown["tokens"] and shown["token_logprobs"][0] is None:
            assert shown["top_logprobs"][0] is None
            shown["token_logprobs"][0], shown["top_logprobs"][0] = 0.0, {}


def check_error(path: str, reply: Reply) -> None:
    """Check that an answer is a client's own fault, and says so as its API does.

    Raises:
        AssertionError: It does not.
        msgspec.DecodeError: It has another shape.
    """
    assert 400 <= reply.status < 500, (reply.status, reply.body[:1000])
    assert reply.headers["content-type"] == "application/json"
    assert len(reply.body) <= MOST_ERROR_BYTES, reply.body[:1000]
    path = unquote(path.partition("?")[0])
    if path == _MESSAGES or path.startswith(f"{_MESSAGES}/"):
        told = msgspec.json.decode(reply.body, type=_AnthropicErrorBody)
        assert told.type == "error"
        assert told.error.type.endswith("_error") or told.error.type == "request_too_large"
        assert told.request_id == reply.headers["request-id"] == reply.headers["x-request-id"]
        assert told.error.message
    else:
        body = msgspec.json.decode(reply.body, type=_OpenAIErrorBody)
        assert body.error.message == body.detail
        assert body.error.message
        assert body.error.code in CODES
        assert body.error.type.endswith("_error")
    assert json.loads(reply.body)
