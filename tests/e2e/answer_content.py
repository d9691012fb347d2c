"""The content of an answer, in one format for all APIs, streamed or not, to compare two answers.

Ids and times, which are new in each answer, are left out. Each function also checks its API's
rules for streams.
"""

import json
from collections.abc import Callable
from typing import Any

from tests.e2e.keep_alive import Reply, events
from vgate.frontend.apis.anthropic.messages.response import tool_input

Content = dict[str, Any]


def content_of(path: str, reply: Reply) -> Content:
    """Return the content of a reply of status 200."""
    buffered, streamed = _READERS[path]
    return streamed(reply.body) if reply.is_stream else buffered(json.loads(reply.body))


def _choice(index: int) -> Content:
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


def _add_logprobs(choice: Content, logprobs: dict[str, Any] | None) -> None:
    """Append log probabilities, whose fields are lists."""
    for name, values in (logprobs or {}).items():
        choice["logprobs"] = choice["logprobs"] or {}
        choice["logprobs"][name] = choice["logprobs"].get(name, []) + (values or [])


def _add_ids(choice: Content, name: str, ids: list[int] | None) -> None:
    """Append token ids; an empty list is the same as no list."""
    if ids:
        choice[name] = (choice[name] or []) + ids


def _chat_buffered(body: Any) -> Content:
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


def _chat_streamed(body: bytes) -> Content:
    chunks = _openai_chunks(body)
    choices: dict[int, Content] = {}
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
    return _openai_content(chunks, choices, usage)


def _add_call_part(calls: list[list[str]], part: dict[str, Any]) -> None:
    if part["index"] == len(calls):
        assert part["id"]
        assert part["type"] == "function"
        calls.append([part["function"]["name"], ""])
    assert part["index"] == len(calls) - 1
    calls[-1][1] += part["function"]["arguments"]


def _completion_buffered(body: Any) -> Content:
    choices = []
    for shown in body["choices"]:
        choice = _choice(shown["index"])
        _add_logprobs(choice, shown["logprobs"])
        choice |= {name: shown[name] for name in ("text", "finish_reason", "stop_reason")}
        for name in ("token_ids", "prompt_token_ids"):
            _add_ids(choice, name, shown.get(name))
        choices.append(choice)
    return {"model": body["model"], "choices": choices, "usage": body["usage"]}


def _completion_streamed(body: bytes) -> Content:
    chunks = _openai_chunks(body)
    choices: dict[int, Content] = {}
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
    return _openai_content(chunks, choices, usage)


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
        assert usage["completion_tokens"] >= before["completion_tokens"], (
            "the token count went down"
        )
    return usage


def _openai_content(chunks: list[Any], choices: dict[int, Content], usage: Any) -> Content:
    ordered = [choices[index] for index in sorted(choices)]
    return {"model": chunks[0]["model"], "choices": ordered, "usage": usage}


# Fields that are new in each response, or are compared as its output.
_RESPONSE_OWN = ("id", "created_at", "completed_at", "output")


def _response_buffered(body: Any) -> Content:
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
        # The text does not show which tokens a replaced character comes from.
        choice["logprobs"] = None
    cut = [item["status"] for item in body["output"] if item["status"] != "completed"]
    assert cut == (["incomplete"] if body["status"] == "incomplete" else [])
    rest = {name: value for name, value in body.items() if name not in _RESPONSE_OWN}
    return {"choices": [choice], **rest}


def _response_streamed(body: bytes) -> Content:
    sent = [json.loads(data) for _, data in events(body)]
    assert [event["type"] for event in sent] == [name for name, _ in events(body)]
    assert [event["sequence_number"] for event in sent] == list(range(len(sent)))
    assert [event["type"] for event in sent[:2]] == ["response.created", "response.in_progress"]
    assert sent[-1]["type"] in {"response.completed", "response.incomplete"}, sent[-1]
    deltas: dict[int, str] = {}
    logprobs: dict[int, list[Any]] = {}
    for event in sent:
        if event["type"].endswith(".delta"):
            index = event["output_index"]
            deltas[index] = deltas.get(index, "") + event["delta"]
            logprobs.setdefault(index, []).extend(event.get("logprobs") or [])
    response = sent[-1]["response"]
    done = [event["item"] for event in sent if event["type"] == "response.output_item.done"]
    assert done == response["output"]
    for index, item in enumerate(done):
        parts = item.get("content") or [{"text": item.get("arguments", "")}]
        assert deltas.get(index, "") == "".join(part["text"] for part in parts)
        if item["type"] == "message":
            # Those of tokens without text are in the last event.
            assert parts[0]["logprobs"][: len(logprobs.get(index, []))] == logprobs.get(index, [])
    return _response_buffered(response)


def _message_buffered(body: Any) -> Content:
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


def _message_streamed(body: bytes) -> Content:
    sent = [json.loads(data) for _, data in events(body)]
    assert [event["type"] for event in sent] == [name for name, _ in events(body)]
    assert sent[0]["type"] == "message_start"
    assert [event["type"] for event in sent[-2:]] == ["message_delta", "message_stop"], sent[-1]
    message, blocks = sent[0]["message"], message_blocks(sent[1:-2])
    first, last = message["usage"], sent[-2]["usage"]
    assert {n: v for n, v in first.items() if not n.startswith("output")} == {
        n: v for n, v in last.items() if not n.startswith("output")
    }
    return _message_buffered({**message, **sent[-2]["delta"], "content": blocks, "usage": last})


def message_blocks(sent: list[Any]) -> list[Any]:
    """Return the content blocks of a message's events: one after the other, each complete."""
    blocks: list[Any] = []
    inputs: list[str] = []
    is_open = False
    for event in sent:
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


_READERS: dict[str, tuple[Callable[[Any], Content], Callable[[bytes], Content]]] = {
    "/v1/chat/completions": (_chat_buffered, _chat_streamed),
    "/v1/completions": (_completion_buffered, _completion_streamed),
    "/v1/responses": (_response_buffered, _response_streamed),
    "/v1/messages": (_message_buffered, _message_streamed),
}
