"""What an answer says, in a form that two answers to the same request can be compared in.

Ids, times and the division into events differ from one answer to the next and are left out.
"""

import json
from typing import Any

Json = dict[str, Any]

_STREAM_ENDS = {
    "/v1/responses": ("response.completed", "response.incomplete"),
    "/v1/messages": ("message_stop",),
}


class WrongError(Exception):
    """The answer is not what it must be; the message says how."""


class ServerError(Exception):
    """The answer is an explicit error, or ends with one; `code` is its code."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code


def said(path: str, body: bytes, *, stream: bool) -> Json:
    """Return what a complete answer says.

    Raises:
        WrongError: It is not complete, or contradicts itself.
        ServerError: It is an error.
    """
    try:
        parts = _events(body) if stream and not body.startswith(b"{") else [json.loads(body)]
    except ValueError:
        raise WrongError(f"no JSON: {body[:200]!r}") from None
    for part in parts:
        whole = part and (part.get("response") or part)
        if whole and (whole.get("error") or whole.get("type") == "error"):
            raise ServerError(*_error(whole))
    if stream:
        _check_end(path, parts)
    kept = [part for part in parts if part is not None]
    match path:
        case "/v1/responses":
            return _response(kept)
        case "/v1/messages":
            return _message(kept)
        case "/v1/embeddings":
            return {"vectors": [row["embedding"] for row in kept[0]["data"]]}
    return _choices(kept)


def _events(body: bytes) -> list[Json | None]:
    """Return the events' data; None stands for [DONE]. Comments are no events."""
    lines = [line for line in body.decode().split("\n") if line.startswith("data: ")]
    found = [line.removeprefix("data: ") for line in lines]
    return [None if data == "[DONE]" else json.loads(data) for data in found]


def _error(part: Json) -> tuple[str, str]:
    error = part.get("error")
    error = error if isinstance(error, dict) else part
    return str(error.get("code") or error.get("type")), str(error.get("message"))


def _check_end(path: str, parts: list[Json | None]) -> None:
    if path in _STREAM_ENDS:
        ends = [n for n, part in enumerate(parts) if part and part["type"] in _STREAM_ENDS[path]]
    else:
        ends = [number for number, part in enumerate(parts) if part is None]
    if ends != [len(parts) - 1]:
        raise WrongError(f"{len(ends)} ends in {len(parts)} events, the last one: {parts[-1:]}")


def _choices(parts: list[Json]) -> Json:
    """Read OpenAI's completions and chat completions."""
    found: dict[int, Json] = {}
    usage = None
    for part in parts:
        usage = part.get("usage") or usage
        for choice in part["choices"]:
            empty: Json = {"text": "", "arguments": "", "tokens": [], "finish_reason": None}
            one = found.setdefault(choice["index"], empty)
            delta = choice.get("delta") or choice.get("message") or {}
            one["text"] += choice.get("text") or delta.get("content") or ""
            for call in delta.get("tool_calls") or []:
                function = call["function"]
                one["arguments"] += (function.get("name") or "") + function.get("arguments", "")
            logprobs = choice.get("logprobs") or {}
            one["tokens"] += [entry["token"] for entry in logprobs.get("content") or []]
            if choice["finish_reason"] and one["finish_reason"]:
                raise WrongError("a choice has ended twice")
            one["finish_reason"] = choice["finish_reason"] or one["finish_reason"]
    return {"choices": found, "tokens": usage and usage["completion_tokens"]}


def _response(parts: list[Json]) -> Json:
    """Read OpenAI's responses: the last event repeats the whole answer."""
    last = parts[-1]
    response = last.get("response", last)
    text = "".join(
        part["text"]
        for item in response["output"]
        if item["type"] == "message"
        for part in item["content"]
    )
    streamed = [p["delta"] for p in parts if p.get("type") == "response.output_text.delta"]
    if len(parts) > 1 and "".join(streamed) != text:
        raise WrongError(f"{''.join(streamed)!r} was streamed, and the answer is {text!r}")
    return {"text": text, "tokens": response["usage"]["output_tokens"]}


def _message(parts: list[Json]) -> Json:
    """Read Anthropic's messages."""
    if "content" in parts[0]:
        whole = parts[0]
        text = "".join(block.get("text", "") for block in whole["content"])
        return {
            "text": text,
            "stop": whole["stop_reason"],
            "tokens": whole["usage"]["output_tokens"],
        }
    deltas = [part["delta"] for part in parts if "delta" in part]
    tokens = [p["usage"]["output_tokens"] for p in parts if p["type"] == "message_delta"]
    stops = [delta["stop_reason"] for delta in deltas if delta.get("stop_reason")]
    if len(stops) != 1:
        raise WrongError(f"{len(stops)} stop reasons")
    text = "".join(delta.get("text", "") for delta in deltas)
    return {"text": text, "stop": stops[0], "tokens": tokens[-1]}
