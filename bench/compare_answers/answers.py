"""An answer as it is compared: what a client would use of it, streams put together."""

import http.client
import json
from typing import Any

import msgspec

from bench.compare.service import Service
from bench.compare_answers.cases import Case

_TIMEOUT_S = 120
# Made anew for each answer, or said by one server only.
_NOT_COMPARED = frozenset(
    {"id", "created", "model", "object", "system_fingerprint", "service_tier", "annotations"}
)
_USAGE = ("prompt_tokens", "completion_tokens", "total_tokens")


class Answer(msgspec.Struct, frozen=True):
    """Status and content; the message of an error where there is no content."""

    status: int
    content: Any


def ask(service: Service, case: Case) -> Answer:
    """Send a request and return its answer."""
    headers = {"Content-Type": "application/json"}
    if service.api_key:
        headers["Authorization"] = f"Bearer {service.api_key}"
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=_TIMEOUT_S)
    try:
        connection.request("POST", case.path, json.dumps(case.body), headers)
        response = connection.getresponse()
        body = response.read()
        streamed = "event-stream" in (response.getheader("Content-Type") or "")
        status = response.status
    except (OSError, http.client.HTTPException) as error:
        return Answer(0, f"no answer: {error}")
    finally:
        connection.close()
    if status != 200:
        return Answer(status, body.decode(errors="replace"))
    return Answer(status, content_of(put_together(body) if streamed else json.loads(body)))


def put_together(stream: bytes) -> dict[str, Any]:
    """Return the whole answer that the events of a stream amount to.

    Texts and lists of log probabilities are joined; of what is no text the last value counts.
    """
    choices: dict[int, dict[str, Any]] = {}
    whole: dict[str, Any] = {"done": False}
    for line in stream.decode().splitlines():
        data = line.removeprefix("data:").strip()
        if not line.startswith("data:"):
            continue
        if data == "[DONE]":
            whole["done"] = True
            continue
        event = json.loads(data)
        if event.get("usage"):
            whole["usage"] = event["usage"]
        if "error" in event:
            whole["error"] = event["error"]
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
    """Return an answer without what is different by design, and without empty fields."""
    answer = dict(answer)
    usage = answer.get("usage")
    if isinstance(usage, dict):
        answer["usage"] = {name: usage.get(name) for name in _USAGE}
    return _stripped(answer)


def _stripped(value: Any) -> Any:
    """Drop what is null or empty: servers differ in whether they write it."""
    if isinstance(value, dict):
        stripped = {
            name: _stripped(inner) for name, inner in value.items() if name not in _NOT_COMPARED
        }
        return {name: inner for name, inner in stripped.items() if inner not in (None, [], {})}
    if isinstance(value, list):
        return [_stripped(inner) for inner in value]
    return value
