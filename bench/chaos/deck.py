"""The requests that clients choose from: every API, and every way in which a stream can go on."""

import random
from functools import partial
from typing import Any

import msgspec

_WORDS = (
    "amber",
    "basil",
    "cedar",
    "dune",
    "ember",
    "flint",
    "grove",
    "heron",
    "indigo",
    "juniper",
    "kelp",
    "lotus",
)
_SCHEMA = {"type": "object", "properties": {"words": {"type": "array"}}, "required": ["words"]}
_TOOL = {"name": "note", "description": "Notes words.", "parameters": _SCHEMA}


class Ask(msgspec.Struct, frozen=True):
    """A request.

    Attributes:
        kind: What is special about it.
        body: Complete, but for the model.
    """

    kind: str
    path: str
    body: dict[str, Any]

    @property
    def stream(self) -> bool:
        """Whether the answer is streamed."""
        return bool(self.body.get("stream"))


def deck(seed: int, size: int, *, simulated: bool) -> list[Ask]:
    """Return different requests, of every kind equally many.

    Each has one right answer: it is greedy, has a seed, or goes to the simulated engine.
    """
    rng = random.Random(seed)
    makers = [maker for maker in _MAKERS if simulated or maker not in _SIMULATED]
    return [makers[index % len(makers)](rng, index) for index in range(size)]


def _text(rng: random.Random, index: int) -> str:
    words = rng.choices(_WORDS, k=rng.randint(6, 20))
    return f"{index} {' '.join(words)}"


def _chat(kind: str, rng: random.Random, index: int, **fields: Any) -> Ask:
    text = fields.pop("text", None) or _text(rng, index)
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 64, **fields}
    if body.setdefault("stream", rng.random() < 0.75):
        body["stream_options"] = {"include_usage": True}
    return Ask(kind, "/v1/chat/completions", {"temperature": 0, **body})


def _seeded(rng: random.Random, index: int) -> Ask:
    return _chat("seeded", rng, index, temperature=1, seed=index)


def _several(rng: random.Random, index: int) -> Ask:
    return _chat("n = 3", rng, index, temperature=1, seed=index, n=3)


def _constrained(rng: random.Random, index: int) -> Ask:
    text = msgspec.json.encode({"words": _text(rng, index).split()}).decode()
    form = {"type": "json_schema", "json_schema": {"name": "words", "schema": _SCHEMA}}
    return _chat("JSON schema", rng, index, text=text, response_format=form, max_tokens=256)


def _forced(rng: random.Random, index: int) -> Ask:
    text = msgspec.json.encode({"words": _text(rng, index).split()}).decode()
    return _chat(
        "forced tool",
        rng,
        index,
        text=text,
        tools=[{"type": "function", "function": _TOOL}],
        tool_choice={"type": "function", "function": {"name": "note"}},
        max_tokens=256,
    )


def _completion(rng: random.Random, index: int) -> Ask:
    body = {"prompt": [_text(rng, index), _text(rng, index)], "max_tokens": 24, "temperature": 0}
    return Ask("completions, 2 prompts", "/v1/completions", {**body, "stream": True})


def _response(rng: random.Random, index: int) -> Ask:
    body = {"input": _text(rng, index), "max_output_tokens": 64, "temperature": 0, "store": False}
    return Ask("responses", "/v1/responses", {**body, "stream": rng.random() < 0.75})


def _message(rng: random.Random, index: int) -> Ask:
    messages = [{"role": "user", "content": _text(rng, index)}]
    body = {"messages": messages, "max_tokens": 64, "temperature": 0}
    return Ask("messages", "/v1/messages", {**body, "stream": rng.random() < 0.75})


_sampled = partial(_chat, "sampled without a seed", temperature=1)
_MAKERS = (
    partial(_chat, "greedy"),
    _sampled,
    _seeded,
    partial(_chat, "penalties", presence_penalty=0.5, frequency_penalty=0.5),
    _several,
    partial(_chat, "logprobs", logprobs=True, top_logprobs=2),
    _constrained,
    _forced,
    partial(_chat, "stop string", stop=["lotus", "never said"]),
    _completion,
    _response,
    _message,
)
# Only the simulated engine has one answer to these.
_SIMULATED = (_sampled,)
