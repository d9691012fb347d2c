"""Requests for every route, from valid to broken, each derived from its seed and number."""

from random import Random
from typing import Any, NamedTuple

import msgspec

from tests.e2e.fuzz_mutations import chunked, damaged, encode, mutated, odd_http
from tests.e2e.fuzz_values import any_value, fields_of, struct_type
from tests.e2e.keep_alive import http_request
from vgate.frontend.apis.anthropic.messages.request import CountTokensRequest, MessagesRequest
from vgate.frontend.apis.openai.chat.request import ChatRequest
from vgate.frontend.apis.openai.classify import ClassifyRequest
from vgate.frontend.apis.openai.completions.request import CompletionRequest
from vgate.frontend.apis.openai.embeddings import EmbeddingRequest, PoolingRequest
from vgate.frontend.apis.openai.responses.request import ResponsesRequest
from vgate.frontend.apis.openai.scoring import RerankRequest, ScoreRequest
from vgate.frontend.apis.openai.tokenize import DetokenizeRequest, TokenizeText

MAIN, EMBEDDER, RANKER = "main", "embedder", "ranker"
# What an answer may have: a fuzzer is after the requests, not after long answers.
_MOST_TOKENS = 12

_SCHEMA = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"]}
_FUNCTION = {"name": "f", "description": "d", "parameters": _SCHEMA}
_CHAT_TOOL = {"type": "function", "function": _FUNCTION}
_RESPONSES_TOOL = {"type": "function", **_FUNCTION}
_MESSAGES_TOOL = {"name": "f", "input_schema": _SCHEMA}
_CALL_TEXT = '<think>hm</think><tool_call>{"name": "f", "arguments": {"a": "b"}}</tool_call>'
_TEXTS = ["Hello, world", _CALL_TEXT, '{"a": "b"}', '[{"name": "f", "parameters": {"a": "b"}}]']


class Route(NamedTuple):
    """A route: its request's type, and valid values of fields whose type is too general."""

    path: str
    struct: type[msgspec.Struct]
    right: dict[str, list[Any]]
    sometimes: dict[str, list[Any]]


def _turns(text: str) -> list[list[dict[str, Any]]]:
    """Return conversations in the format of chat completions."""
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    return [
        [{"role": "user", "content": text}],
        [
            {"role": "system", "content": "Be."},
            {"role": "user", "content": [{"type": "text", "text": text}]},
        ],
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": text},
        ],
        [{"role": "user", "content": text}, {"role": "assistant", "content": "So"}],
    ]


def _items(text: str) -> list[Any]:
    """Return inputs in the format of the Responses API."""
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
    return [
        text,
        [{"role": "user", "content": [{"type": "input_text", "text": text}]}],
        [
            {"role": "user", "content": "Hi"},
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
            call,
            {"type": "function_call_output", "call_id": "c", "output": text},
        ],
    ]


def _blocks(text: str) -> list[list[dict[str, Any]]]:
    """Return conversations in the format of the Messages API."""
    call = {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}}
    result = {"type": "tool_result", "tool_use_id": "c", "content": text}
    return [
        [{"role": "user", "content": text}],
        [{"role": "user", "content": [{"type": "text", "text": text}]}],
        [
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": [{"type": "thinking", "thinking": "hm"}, call]},
            {"role": "user", "content": [result]},
        ],
    ]


_STREAMS = [True, False, False]
_FORMATS = [
    {"type": "text"},
    {"type": "json_object"},
    {"type": "json_schema", "json_schema": {"name": "n", "schema": _SCHEMA}},
]
_MODELS = {"model": [MAIN]}
_CHAT = {"messages": [c for text in _TEXTS for c in _turns(text)], **_MODELS}
_MESSAGES = {"messages": [c for text in _TEXTS for c in _blocks(text)], **_MODELS}
_SCORING = {"model": [EMBEDDER, RANKER]}
_NAMED = {"type": "function", "name": "f"}
ROUTES = (
    Route(
        "/v1/chat/completions",
        ChatRequest,
        _CHAT,
        {
            "tools": [[_CHAT_TOOL]],
            "tool_choice": ["auto", "required", {"type": "function", "function": {"name": "f"}}],
            "response_format": _FORMATS,
            "stream": _STREAMS,
            "logprobs": [True],
        },
    ),
    Route(
        "/v1/completions",
        CompletionRequest,
        {"prompt": [*_TEXTS, ["a", "b"], [1, 2, 300], [[65], [66, 67]]], **_MODELS},
        {"stream": _STREAMS, "echo": [True]},
    ),
    Route(
        "/v1/responses",
        ResponsesRequest,
        {"input": [c for text in _TEXTS for c in _items(text)], **_MODELS},
        {
            "tools": [[_RESPONSES_TOOL]],
            "tool_choice": ["auto", "required", _NAMED],
            "stream": _STREAMS,
            "include": [["message.output_text.logprobs"]],
        },
    ),
    Route(
        "/v1/messages",
        MessagesRequest,
        {**_MESSAGES, "max_tokens": [5, _MOST_TOKENS]},
        {
            "tools": [[_MESSAGES_TOOL]],
            "tool_choice": [{"type": "any"}, {"type": "tool", "name": "f"}],
            "stream": _STREAMS,
        },
    ),
    Route("/v1/messages/count_tokens", CountTokensRequest, _MESSAGES, {}),
    Route(
        "/v1/embeddings",
        EmbeddingRequest,
        {"input": ["a", ["a", "b"], [1, 2], [[1], [2, 3]]], "model": [EMBEDDER]},
        {"encoding_format": ["float", "base64"]},
    ),
    Route(
        "/pooling",
        PoolingRequest,
        {"input": ["a", ["a", "b"], [1, 2]], "model": [EMBEDDER]},
        {"encoding_format": ["float", "base64"]},
    ),
    Route(
        "/classify",
        ClassifyRequest,
        {"input": ["a", ["a", "b"], [[1], [2, 3]]], "model": [RANKER]},
        {"use_activation": [True, False]},
    ),
    Route(
        "/v1/score",
        ScoreRequest,
        {"text_1": ["a", ["b", "c"]], "text_2": [["b", "é"]], **_SCORING},
        {},
    ),
    Route("/v1/rerank", RerankRequest, {"query": _TEXTS, "documents": [_TEXTS], **_SCORING}, {}),
    Route("/tokenize", TokenizeText, {"prompt": _TEXTS}, {"model": [MAIN, EMBEDDER]}),
    Route("/tokenize", ChatRequest, _CHAT, {"return_token_strs": [True]}),
    Route("/detokenize", DetokenizeRequest, {"tokens": [[65, 66], []]}, {"model": [MAIN]}),
)
_WEIGHTS = (6, 5, 6, 6, 3, 3, 1, 2, 2, 2, 1, 1, 1)
_TYPES = {route.struct: struct_type(route.struct) for route in ROUTES}


class Fuzzed(NamedTuple):
    """A request; `left` if its client does not wait for the answer."""

    path: str
    data: bytes
    left: bool


def fuzzed(seed: int, number: int) -> Fuzzed:
    """Return a request."""
    rng = Random(f"{seed}/{number}")
    (route,) = rng.choices(ROUTES, _WEIGHTS)
    document = _document(rng, route)
    if rng.random() < 0.5:
        document = mutated(rng, document)
    if rng.random() < 0.02:
        document = any_value(rng)
    body = encode(_short(document))
    if rng.random() < 0.1:
        body = damaged(rng, body)
    method, path, headers = "POST", route.path, {"content-type": "application/json"}
    if rng.random() < 0.1:
        method, path, headers = odd_http(rng, path)
    elif rng.random() < 0.05:
        body, headers = chunked(rng, body), {**headers, "transfer-encoding": "chunked"}
    return Fuzzed(path, http_request(method, path, body, headers), rng.random() < 0.02)


def _document(rng: Random, route: Route) -> dict[str, Any]:
    """Return a request with mostly valid fields."""
    known = frozenset((*route.right, *route.sometimes))
    document = {name: rng.choice(values) for name, values in route.right.items()}
    for name, values in route.sometimes.items():
        if rng.random() < 0.35:
            document[name] = rng.choice(values)
    document |= fields_of(rng, _TYPES[route.struct], without=known)
    if rng.random() < 0.05:
        # Also what is known to be right may be anything of its type.
        document |= fields_of(rng, _TYPES[route.struct], without=frozenset())
    return document


def _short(document: Any) -> Any:
    """Return a request whose valid limits are low, to keep its answers short."""
    if not isinstance(document, dict):
        return document
    document = dict(document)
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens", "min_tokens"):
        value = document.get(name)
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 512:
            document[name] = min(value, _MOST_TOKENS)
    return document
