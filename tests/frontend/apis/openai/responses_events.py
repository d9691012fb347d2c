"""Reads streams of the Responses API as a strict client would."""

import json
import typing
from typing import Any

import pydantic
from openai.types import responses as types

EVENTS: dict[str, type[pydantic.BaseModel]] = {
    typing.get_args(event.model_fields["type"].annotation)[0]: event
    for event in typing.get_args(typing.get_args(types.ResponseStreamEvent)[0])
}
# What OpenAI's and vLLM's servers send and the SDK's types don't know.
EXTRA = {"store", "presence_penalty", "frequency_penalty", "name", "bytes"}


def extras_of(value: Any) -> set[str]:
    """Return the names of the fields that the SDK doesn't know, at any depth."""
    if isinstance(value, list):
        return set().union(*map(extras_of, value))
    if not isinstance(value, pydantic.BaseModel):
        return set()
    inner = (extras_of(getattr(value, name)) for name in type(value).model_fields)
    return set(value.model_extra or ()).union(*inner)


def events_of(stream: bytes) -> list[dict[str, Any]]:
    """Read a stream, holding each event to the SDK's type."""
    assert stream.endswith(b"\n\n")
    events = []
    for frame in stream[:-2].split(b"\n\n"):
        first, second = frame.decode().split("\n")
        event: dict[str, Any] = json.loads(second.removeprefix("data: "))
        assert first == f"event: {event['type']}"
        read = EVENTS[event["type"]].model_validate(event, strict=True)
        assert extras_of(read) <= EXTRA
        events.append(event)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    return events


def without_ids(value: Any) -> Any:
    """Return a response without what differs between two that say the same."""
    if isinstance(value, dict):
        return {
            name: without_ids(inner)
            for name, inner in value.items()
            if name not in {"id", "created_at", "completed_at"}
        }
    return [without_ids(inner) for inner in value] if isinstance(value, list) else value


class Item:
    """What a client puts together of the events of one item."""

    def __init__(self, empty: dict[str, Any]) -> None:
        self.empty = empty
        self.deltas = ""
        self.logprobs: list[Any] = []
        self.part: dict[str, Any] | None = None
        self.done: dict[str, Any] | None = None

    @property
    def id(self) -> str:
        name: str = self.empty["id"]
        return name

    def text_done(self, event: dict[str, Any]) -> None:
        assert event.get("text", event.get("arguments")) == self.deltas
        if "logprobs" in event:
            logprobs = event["logprobs"]
            assert logprobs[: len(self.logprobs)] == self.logprobs
            self.logprobs = logprobs

    def finish(self, item: dict[str, Any]) -> None:
        assert (item["id"], item["type"]) == (self.empty["id"], self.empty["type"])
        if item["type"] == "function_call":
            assert item["arguments"] == self.deltas
            assert (item["name"], item["call_id"]) == (self.empty["name"], self.empty["call_id"])
        else:
            (part,) = item["content"]
            assert part == self.part
            assert part["text"] == self.deltas
            assert part.get("logprobs", []) == self.logprobs
        self.done = item


def read_items(events: list[dict[str, Any]]) -> list[Item]:
    """Follow the events of items, holding them to the order in which they must come."""
    items: list[Item] = []
    steps: list[str] = []
    for event in events:
        kind = event["type"].removeprefix("response.")
        if kind == "output_item.added":
            assert all(item.done for item in items), "one item at a time"
            assert event["output_index"] == len(items)
            assert event["item"]["status"] == "in_progress"
            items.append(Item(event["item"]))
            steps = []
            continue
        item = items[-1]
        assert item.done is None
        assert event["output_index"] == len(items) - 1
        if kind == "output_item.done":
            item.finish(event["item"])
            expected = ["content_part.added", "delta", "done", "content_part.done"]
            if item.empty["type"] == "function_call":
                expected = ["delta", "done"]
            assert [step for step in expected if step in steps or step != "delta"] == steps
            continue
        assert event["item_id"] == item.id
        step = kind if kind.startswith("content_part") else kind.rpartition(".")[2]
        if step != "delta" or steps[-1:] != ["delta"]:
            steps.append(step)
        if step == "delta":
            item.deltas += event["delta"]
            item.logprobs += event.get("logprobs", [])
        elif step == "done":
            item.text_done(event)
        elif step == "content_part.done":
            item.part = event["part"]
    return items


def check_stream(stream: bytes) -> dict[str, Any]:
    """Check a complete stream, and return the response that it ends with."""
    events = events_of(stream)
    first, second, *middle, last = events
    assert [first["type"], second["type"]] == ["response.created", "response.in_progress"]
    assert first["response"] == second["response"]
    assert (first["response"]["status"], first["response"]["output"]) == ("in_progress", [])
    final: dict[str, Any] = last["response"]
    assert last["type"] == f"response.{final['status']}"
    assert final["id"] == first["response"]["id"]
    assert final["created_at"] == first["response"]["created_at"]
    items = read_items(middle)
    assert [item.done for item in items] == final["output"]
    assert len({item.id for item in items}) == len(items)
    return final
