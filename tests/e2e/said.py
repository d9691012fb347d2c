"""What an answer says, whichever API said it and however it was delivered, to compare two of them.

Names and times that are new in each answer are left out. Each function also checks what its API
promises of a stream beside its content.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from tests.e2e.keep_alive import Reply, events
from vgate.frontend.apis.anthropic.messages.response import tool_input

Said = dict[str, Any]


def said(path: str, reply: Reply) -> Said:
    """Return what a reply of status 200 says."""
    whole, streamed = _READERS[path]
    return streamed(reply.body) if reply.is_stream else whole(json.loads(reply.body))


def _choice(index: int) -> Said:
    return {
        "index": index,
        "text": "",
        "reasoning": "",
        "calls": [],
        "logprobs": None,
        "token_ids": None,
        "prompt_token_ids": None,
        "finish_reason": None,
        "stop_reason": None,
    }


def _add_logprobs(choice: Said, logprobs: dict[str, Any] | None) -> None:
    """Append log probabilities, whose fields are lists."""
    for name, values in (logprobs or {}).items():
        choice["logprobs"] = choice["logprobs"] or {}
        choice["logprobs"][name] = choice["logprobs"].get(name, []) + (values or [])


def _add_ids(choice: Said, name: str, ids: list[int] | None) -> None:
    """Append token ids; to have none is the same as not to tell them."""
    if ids:
        choice[name] = (choice[name] or []) + ids


def _chat_whole(body: Any) -> Said:
    choices = []
    for shown in body["choices"]:
        choice, message = _choice(shown["index"]), shown["message"]
        choice["text"] = message["content"] or ""
        choice["reasoning"] = message.get("reasoning_content") or ""
        assert choice["reasoning"] == (message.get("reasoning") or "")
        for call in message.get("tool_calls", []):
            assert call["id"]
            assert call["type"] == "function"
            choice["calls"].append([call["function"]["name"], call["function"]["arguments"]])
        if message["content"] is None:
            assert choice["calls"] or choice["reasoning"]
        _add_logprobs(choice, shown["logprobs"])
        choice |= {name: shown[name] for name in ("finish_reason", "stop_reason")}
        _add_ids(choice, "token_ids", shown.get("token_ids"))
        choices.append(choice)
    _add_ids(choices[0], "prompt_token_ids", body.get("prompt_token_ids"))
    return {"model": body["model"], "choices": choices, "usage": body["usage"]}


def _chat_streamed(body: bytes) -> Said:
    chunks = _openai_chunks(body)
    choices: dict[int, Said] = {}
    usage = None
    for chunk in chunks:
        usage = _usage_so_far(usage, chunk)
        for shown in chunk["choices"]:
            delta = shown["delta"]
            if shown["index"] not in choices:
                assert delta["role"] == "assistant"
                choices[shown["index"]] = _choice(shown["index"])
            choice = choices[shown["index"]]
            assert choice["finish_reason"] is None, "a chunk came after the choice's end"
            choice["text"] += delta.get("content") or ""
            choice["reasoning"] += delta.get("reasoning_content") or ""
            for part in delta.get("tool_calls", []):
                _add_call_part(choice["calls"], part)
            _add_logprobs(choice, shown["logprobs"])
            _add_ids(choice, "token_ids", shown.get("token_ids"))
            _add_ids(choice, "prompt_token_ids", chunk.get("prompt_token_ids"))
            if shown["finish_reason"]:
                choice |= {name: shown[name] for name in ("finish_reason", "stop_reason")}
    return _openai_said(chunks, choices, usage)


def _add_call_part(calls: list[list[str]], part: dict[str, Any]) -> None:
    if part["index"] == len(calls):
        assert part["id"]
        assert part["type"] == "function"
        calls.append([part["function"]["name"], ""])
    assert part["index"] == len(calls) - 1
    calls[-1][1] += part["function"]["arguments"]


def _completion_whole(body: Any) -> Said:
    choices = []
    for shown in body["choices"]:
        choice = _choice(shown["index"])
        _add_logprobs(choice, shown["logprobs"])
        choice |= {name: shown[name] for name in ("text", "finish_reason", "stop_reason")}
        for name in ("token_ids", "prompt_token_ids"):
            _add_ids(choice, name, shown.get(name))
        choices.append(choice)
    return {"model": body["model"], "choices": choices, "usage": body["usage"]}


def _completion_streamed(body: bytes) -> Said:
    chunks = _openai_chunks(body)
    choices: dict[int, Said] = {}
    usage = None
    for chunk in chunks:
        usage = _usage_so_far(usage, chunk)
        for shown in chunk["choices"]:
            choice = choices.setdefault(shown["index"], _choice(shown["index"]))
            assert choice["finish_reason"] is None, "a chunk came after the choice's end"
            choice["text"] += shown["text"]
            _add_logprobs(choice, shown["logprobs"])
            for name in ("token_ids", "prompt_token_ids"):
                _add_ids(choice, name, shown.get(name))
            if shown["finish_reason"]:
                choice |= {name: shown[name] for name in ("finish_reason", "stop_reason")}
    return _openai_said(chunks, choices, usage)


def _openai_chunks(body: bytes) -> list[Any]:
    *found, last = events(body)
    assert last == ("", b"[DONE]"), last
    chunks = [json.loads(data) for _, data in found]
    assert all("error" not in chunk for chunk in chunks), chunks[-1]
    assert len({chunk["id"] for chunk in chunks}) == 1
    return chunks


def _usage_so_far(before: Any, chunk: Any) -> Any:
    usage = chunk.get("usage")
    if usage is None:
        return before
    if before is not None:
        assert usage["completion_tokens"] >= before["completion_tokens"], "tokens were taken back"
    return usage


def _openai_said(chunks: list[Any], choices: dict[int, Said], usage: Any) -> Said:
    ordered = [choices[index] for index in sorted(choices)]
    return {"model": chunks[0]["model"], "choices": ordered, "usage": usage}


# What a response has that is new in each of them, or is in its output.
_RESPONSE_OWN = ("id", "created_at", "completed_at", "output")


def _response_whole(body: Any) -> Said:
    choice = _choice(0)
    choice["logprobs"] = []
    assert body["output"]
    for item in body["output"]:
        if item["type"] == "reasoning":
            choice["reasoning"] += "".join(part["text"] for part in item["content"])
        elif item["type"] == "message":
            choice["text"] += "".join(part["text"] for part in item["content"])
            choice["logprobs"] += [p for part in item["content"] for p in part["logprobs"]]
        else:
            assert item["type"] == "function_call"
            assert item["call_id"]
            choice["calls"].append([item["name"], item["arguments"]])
    if "\ufffd" in choice["text"]:
        # Which tokens a replaced character has come from can't be told from the text.
        choice["logprobs"] = None
    cut = [item["status"] for item in body["output"] if item["status"] != "completed"]
    assert cut == (["incomplete"] if body["status"] == "incomplete" else [])
    rest = {name: value for name, value in body.items() if name not in _RESPONSE_OWN}
    return {"choices": [choice], **rest}


def _response_streamed(body: bytes) -> Said:
    told = [json.loads(data) for _, data in events(body)]
    assert [event["type"] for event in told] == [name for name, _ in events(body)]
    assert [event["sequence_number"] for event in told] == list(range(len(told)))
    assert [event["type"] for event in told[:2]] == ["response.created", "response.in_progress"]
    assert told[-1]["type"] in {"response.completed", "response.incomplete"}, told[-1]
    deltas: dict[int, str] = {}
    logprobs: dict[int, list[Any]] = {}
    for event in told:
        if event["type"].endswith(".delta"):
            place = event["output_index"]
            deltas[place] = deltas.get(place, "") + event["delta"]
            logprobs.setdefault(place, []).extend(event.get("logprobs") or [])
    response = told[-1]["response"]
    done = [event["item"] for event in told if event["type"] == "response.output_item.done"]
    assert done == response["output"]
    for place, item in enumerate(done):
        parts = item.get("content") or [{"text": item.get("arguments", "")}]
        assert deltas.get(place, "") == "".join(part["text"] for part in parts)
        if item["type"] == "message":
            # Those of tokens without text come with the end.
            assert parts[0]["logprobs"][: len(logprobs.get(place, []))] == logprobs.get(place, [])
    return _response_whole(response)


def _message_whole(body: Any) -> Said:
    choice = _choice(0)
    assert body["content"]
    for block in body["content"]:
        if block["type"] == "thinking":
            choice["reasoning"] += block["thinking"]
        elif block["type"] == "text":
            choice["text"] += block["text"]
        else:
            assert block["type"] == "tool_use"
            assert block["id"]
            choice["calls"].append([block["name"], block["input"]])
    choice["finish_reason"], choice["stop_reason"] = body["stop_reason"], body["stop_sequence"]
    return {"model": body["model"], "choices": [choice], "usage": body["usage"]}


def _message_streamed(body: bytes) -> Said:
    told = [json.loads(data) for _, data in events(body)]
    assert [event["type"] for event in told] == [name for name, _ in events(body)]
    assert told[0]["type"] == "message_start"
    assert [event["type"] for event in told[-2:]] == ["message_delta", "message_stop"], told[-1]
    message, blocks = told[0]["message"], message_blocks(told[1:-2])
    first, last = message["usage"], told[-2]["usage"]
    assert {n: v for n, v in first.items() if not n.startswith("output")} == {
        n: v for n, v in last.items() if not n.startswith("output")
    }
    return _message_whole({**message, **told[-2]["delta"], "content": blocks, "usage": last})


def message_blocks(told: list[Any]) -> list[Any]:
    """Return the content blocks of a message's events: one after the other, each whole."""
    blocks: list[Any] = []
    inputs: list[str] = []
    is_open = False
    for event in told:
        assert event["index"] == len(blocks) - (event["type"] != "content_block_start")
        assert is_open == (event["type"] != "content_block_start")
        if event["type"] == "content_block_start":
            blocks.append(event["content_block"])
            inputs.append("")
            is_open = True
        elif event["type"] == "content_block_stop":
            is_open = False
            if blocks[-1]["type"] == "tool_use":
                blocks[-1]["input"] = json.loads(bytes(tool_input(inputs[-1])))
        else:
            delta = event["delta"]
            kind = {"input_json_delta": "partial_json"}.get(delta["type"])
            name = kind or delta["type"].removesuffix("_delta")
            if kind:
                inputs[-1] += delta[name]
            else:
                blocks[-1][name] += delta[name]
    assert not is_open
    return blocks


_READERS: dict[str, tuple[Callable[[Any], Said], Callable[[bytes], Said]]] = {
    "/v1/chat/completions": (_chat_whole, _chat_streamed),
    "/v1/completions": (_completion_whole, _completion_streamed),
    "/v1/responses": (_response_whole, _response_streamed),
    "/v1/messages": (_message_whole, _message_streamed),
}
