"""The requests: each has one right answer, because it is greedy or has a seed."""

from typing import Any

import msgspec

CHAT = "/v1/chat/completions"
COMPLETIONS = "/v1/completions"

_TEXTS = {
    "plain": "Tell me about the rain in spring",
    "code": "def add(a, b):\n    return",
    "accents": "Příliš žluťoučký kůň úpěl",
    "han": "数学和诗歌",
    "emoji": "an old 🚂 and a 👩‍🚀",
    "digits": "1, 2, 3, 4, 5, 6, 7,",
}
_CONVERSATION = [
    {"role": "system", "content": "You are terse."},
    {"role": "user", "content": "Name a colour"},
    {"role": "assistant", "content": "Blue"},
    {"role": "user", "content": "Another one"},
]
_SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "size": {"type": "string", "enum": ["small", "large"]},
        "count": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 6}, "maxItems": 3},
    },
    "required": ["name", "size", "count", "tags"],
    "additionalProperties": False,
}


class Case(msgspec.Struct, frozen=True):
    """One request; `group` says what it is about."""

    group: str
    name: str
    path: str
    body: dict[str, Any]


def cases() -> list[Case]:
    """Return all of them."""
    return [*_greedy(), *_sampling(), *_stops(), *_logprobs(), *_completions(), *_structured()]


def _chat(group: str, name: str, text: str = "Tell me about a lighthouse", **fields: Any) -> Case:
    messages = fields.pop("messages", [{"role": "user", "content": text}])
    body = {"model": "tiny", "messages": messages, "max_tokens": 48, "temperature": 0, **fields}
    _name_tokens_by_id(body)
    return Case(group, name, CHAT, {key: value for key, value in body.items() if value is not None})


def _completion(group: str, name: str, prompt: Any, **fields: Any) -> Case:
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 32, "temperature": 0, **fields}
    _name_tokens_by_id(body)
    return Case(group, name, COMPLETIONS, body)


def _name_tokens_by_id(body: dict[str, Any]) -> None:
    """Ask for what can be compared of log probabilities, see `bench.compare_answers.by_design`."""
    if body.get("logprobs") is not None:
        body["return_tokens_as_token_ids"] = True


def _greedy() -> list[Case]:
    found = [_chat("greedy", name, text) for name, text in _TEXTS.items()]
    usage = {"include_usage": True}
    found += [
        _chat("greedy", f"{name}, streamed", text, stream=True, stream_options=usage)
        for name, text in _TEXTS.items()
    ]
    return [
        *found,
        _chat("greedy", "conversation", messages=_CONVERSATION),
        _chat("greedy", "one token", max_tokens=1),
        _chat("greedy", "500 tokens", max_tokens=500, ignore_eos=True),
        _chat("greedy", "max_completion_tokens", max_tokens=None, max_completion_tokens=9),
    ]


def _sampling() -> list[Case]:
    def sampled(name: str, **fields: Any) -> Case:
        return _chat("sampling", name, temperature=fields.pop("temperature", 1.0), seed=7, **fields)

    return [
        sampled("seed"),
        sampled("low temperature", temperature=0.3),
        sampled("top_p", top_p=0.7),
        sampled("top_k", top_k=5),
        sampled("min_p", min_p=0.1),
        sampled("two choices", n=2),
        _chat("sampling", "presence and frequency", presence_penalty=1.0, frequency_penalty=0.7),
        _chat("sampling", "repetition", repetition_penalty=1.3),
        _chat("sampling", "logit_bias", logit_bias={"100": 100}, max_tokens=8),
        _chat("sampling", "min_tokens", min_tokens=40),
    ]


def _stops() -> list[Case]:
    return [
        _chat("stop", "a letter", stop="e"),
        _chat("stop", "several, streamed", stop=["qu", "a"], stream=True),
        _chat("stop", "kept in the text", stop=["e"], include_stop_str_in_output=True),
        _chat("stop", "token ids", stop_token_ids=list(range(300, 1900, 25))),
        _chat("stop", "special tokens shown", skip_special_tokens=False, min_tokens=4),
    ]


def _logprobs() -> list[Case]:
    return [
        _chat("logprobs", "chosen tokens", logprobs=True),
        _chat("logprobs", "top 5", logprobs=True, top_logprobs=5),
        _chat("logprobs", "top 5, streamed", logprobs=True, top_logprobs=5, stream=True),
        _chat("logprobs", "top 2, split characters", _TEXTS["emoji"], logprobs=True,
              top_logprobs=2),
        _chat("logprobs", "top 3, sampled", logprobs=True, top_logprobs=3, temperature=1.0, seed=3),
    ]  # fmt: skip


def _completions() -> list[Case]:
    text = _TEXTS["plain"]
    group = "completions"
    return [
        _completion(group, "text", text),
        _completion(group, "streamed", text, stream=True),
        _completion(group, "token ids", [50, 60, 70, 80]),
        _completion(group, "two prompts", [text, _TEXTS["code"]]),
        _completion(group, "two lists of ids", [[50, 60, 70], [80, 90]]),
        _completion(group, "suffix of spaces", f"{text}   "),
        _completion(group, "logprobs", text, logprobs=3),
        _completion(group, "logprobs 0", text, logprobs=0),
        _completion(group, "logprobs, streamed", text, logprobs=2, stream=True),
        _completion(group, "echo", text, echo=True),
        _completion(group, "echo, streamed", text, echo=True, stream=True),
        _completion(group, "echo, logprobs", text, echo=True, logprobs=2),
        _completion(
            group, "echo, logprobs, no new token", text, echo=True, logprobs=1, max_tokens=0
        ),
        _completion(group, "prompt_logprobs", text, prompt_logprobs=2),
        _completion(group, "two choices", text, n=2, temperature=1.0, seed=5),
    ]


def _structured() -> list[Case]:
    def formatted(name: str, kind: dict[str, Any], **fields: Any) -> Case:
        return _chat("structured", name, response_format=kind, max_tokens=96, **fields)

    schema = {"type": "json_schema", "json_schema": {"name": "thing", "schema": _SCHEMA}}
    strict = {
        "type": "json_schema",
        "json_schema": {"name": "thing", "schema": _SCHEMA, "strict": True},
    }
    return [
        formatted("json_schema", schema),
        formatted("json_schema, strict", strict),
        formatted("json_schema, streamed", schema, stream=True),
        formatted("json_object", {"type": "json_object"}),
        _chat("structured", "regex", structured_outputs={"regex": "[a-c]{3}-[0-9]{2}"}),
        _chat("structured", "choice", structured_outputs={"choice": ["north", "south"]}),
    ]
