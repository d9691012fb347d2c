"""An answer as it is compared: what a client would use of it, with streams put together."""

import http.client
import json
from typing import Any

import msgspec

from bench.compare.service import Service
from bench.compare_answers.cases import Case
from bench.load.events import EventSplitter

_TIMEOUT_S = 120
# Different in each answer, or sent by one server only.
_NOT_COMPARED = frozenset(
    {"id", "created", "model", "object", "system_fingerprint", "service_tier", "annotations"}
)
_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")


class Answer(msgspec.Struct, frozen=True):
    """Status and content; the body as text where the status is not 200."""

    status: int
    content: Any


def ask(service: Service, case: Case) -> Answer:
    """Send a request and return its answer."""
    try:
        status, kind, body = service.post(case.path, json.dumps(case.body).encode(), _TIMEOUT_S)
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, f"no answer: {error}")
    if status != 200:
        return Answer(status, body.decode(errors="replace"))
    return Answer(
        200, content_of(put_together(body) if "event-stream" in kind else json.loads(body))
    )


def put_together(stream: bytes) -> dict[str, Any]:
    """Return the whole answer that a stream's events make.

    Texts and lists of log probabilities are joined; of other fields the last value counts.
    """
    choices: dict[int, dict[str, Any]] = {}
    whole: dict[str, Any] = {"done": False}
    for data in EventSplitter().feed(stream):
        if data == b"[DONE]":
            whole["done"] = True
            continue
        event = json.loads(data)
        whole |= {name: event[name] for name in ("usage", "error") if event.get(name)}
        for choice in event.get("choices", ()):
            _join(choices.setdefault(choice["index"], {}), choice)
    whole["choices"] = [choices[index] for index in sorted(choices)]
    return whole


def _join(known: dict[str, Any], part: dict[str, Any]) -> None:
    for name, value in part.items():
        before = known.get(name)
        if value is None:
            continue
        if isinstance(value, dict):
            _join(known.setdefault(name, {}), value)
        elif isinstance(value, str) and name in ("content", "text", "arguments"):
            known[name] = (before or "") + value
        elif isinstance(value, list) and name == "tool_calls":
            calls = known.setdefault(name, [])
            for call in value:
                calls += [{} for _ in range(call.get("index", 0) + 1 - len(calls))]
                _join(calls[call.get("index", 0)], call)
        elif isinstance(value, list):
            known[name] = (before or []) + value
        else:
            known[name] = value


def content_of(answer: dict[str, Any]) -> Any:
    """Return an answer without fields that differ in each one, and without empty fields."""
    if isinstance(usage := answer.get("usage"), dict):
        answer = answer | {"usage": {name: usage.get(name) for name in _USAGE}}
    return _stripped(answer)


def _stripped(value: Any) -> Any:
    """Drop null and empty fields: servers differ in whether they send them."""
    if isinstance(value, dict):
        stripped = {
            name: _stripped(inner) for name, inner in value.items() if name not in _NOT_COMPARED
        }
        return {name: inner for name, inner in stripped.items() if inner not in (None, [], {})}
    if isinstance(value, list):
        return [_stripped(inner) for inner in value]
    return value
