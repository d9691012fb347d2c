"""Random requests whose answers stress the parsers, stop strings and the detokenizer.

The dry-run engine answers with the text of the last message, a token a byte, so whatever is in that
text is cut everywhere. A case is made of its seed and number alone.
"""

import json
from random import Random
from typing import Any, NamedTuple

from tests.frontend.parsing.malformed import MALFORMED
from tests.frontend.parsing.samples import SAMPLES, TOOLS

MAIN = "main"
# Further models, one for each tool parser that isn't the main one's.
PARSERS = ("qwen3_coder", "llama3_json", "mistral", "pythonic", "deepseek_v3")
MODELS = {MAIN: "hermes", **{name: name for name in PARSERS}}

_MARKERS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>"]
_PLAIN = [
    "Hello, world. ",
    "The weather is fine\n\n",
    "naïve café ",
    "数学は楽しい",
    "an old 🚂 and 👩‍👩‍👧 ",
    "é\u0301\u200d\u2028",
    " \t\n",
    "STOP",
    "```json\n",
    "<",
    "{",
    "[1, 2",
    "null",
    "\\",
    "<|end|>",
    "\x00\x7f",
]
_STRINGS = [
    "Paris",
    'a "b" \\ c',
    "Zürich\n",
    "東京 🗼",
    "</tool_call>",
    "<think>",
    "",
    "\x07\u2029",
]
_SAMPLES = {
    name: [text for parser, text, _ in SAMPLES + MALFORMED if parser == name and len(text) < 300]
    for name in {*MODELS.values()}
}


class Case(NamedTuple):
    """A request, apart from how its answer is delivered."""

    path: str
    body: dict[str, Any]


def case(seed: int, number: int) -> Case:
    """Return a case."""
    rng = Random(f"{seed}/{number}")
    (make,) = rng.choices((_chat, _completion, _response, _message), (8, 5, 4, 4))
    return make(rng)


def _text(rng: Random, parser: str = "hermes") -> str:
    """Return the text that the model generates."""
    pieces = [_piece(rng, parser) for _ in range(rng.randint(1, 5))]
    if rng.random() < 0.3:
        pieces.insert(0, _thought(rng))
    return "".join(pieces) or "x"


def _thought(rng: Random) -> str:
    begin, end = rng.choice(("<think>", "\n<think>\n", "")), rng.choice(("</think>", "", "</thi"))
    return f"{begin}{rng.choice(_PLAIN)}{rng.choice(_PLAIN)}{end}"


def _piece(rng: Random, parser: str) -> str:
    kind = rng.random()
    if kind < 0.4:
        return rng.choice(_PLAIN)
    if kind < 0.55:
        marker = rng.choice(_MARKERS)
        return marker[: rng.randint(1, len(marker))]
    if kind < 0.75:
        return _call(rng)
    sample = rng.choice(_SAMPLES[parser])
    return sample if kind < 0.9 else sample[: rng.randint(1, len(sample))]


def _call(rng: Random) -> str:
    """Return a call in Hermes' format."""
    call = {"name": rng.choice(TOOLS)["name"], "arguments": _arguments(rng)}
    space = rng.choice(("", "\n", " "))
    text = json.dumps(call, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, None, 1)))
    return f"<tool_call>{space}{text}{space}</tool_call>"


def _arguments(rng: Random) -> dict[str, Any]:
    values = {
        "city": lambda: "".join(rng.choices(_STRINGS, k=2)),
        "days": lambda: rng.randint(-(10**12), 10**12),
        "hourly": lambda: rng.random() < 0.5,
        "place": lambda: {"a": [1.5e-7, None, {"b": rng.choice(_STRINGS)}]},
        "unit": lambda: rng.choice([None, "°C"]),
    }
    return {name: values[name]() for name in rng.sample(sorted(values), rng.randint(0, 3))}


def _demanded(rng: Random) -> tuple[str, str | None]:
    """Return text in the format of required calls, and the name of a named one."""
    ascii_only, indent = rng.random() < 0.5, rng.choice((None, None, 2))
    name = rng.choice(TOOLS)["name"]
    if rng.random() < 0.5:
        return json.dumps(_arguments(rng), ensure_ascii=ascii_only, indent=indent), name
    calls = [
        {"name": rng.choice(TOOLS)["name"], "parameters": _arguments(rng)}
        for _ in range(rng.randint(1, 3))
    ]
    return json.dumps(calls, ensure_ascii=ascii_only, indent=indent), None


def _stops(rng: Random, text: str) -> list[str]:
    """Return strings that are in the text, overlap each other, or are nearly in it."""
    stops = []
    for _ in range(rng.randint(1, 4)):
        begin = rng.randrange(len(text))
        stop = text[begin : begin + rng.randint(1, 8)]
        stops.append(stop + rng.choice(("", "", "#", "é")))
    return stops


def _limits(rng: Random, text: str, body: dict[str, Any], max_tokens: str) -> None:
    """Add conditions that end an answer."""
    size = len(text.encode())
    if rng.random() < 0.45:
        body[max_tokens] = rng.randint(1, size + 3)
    if rng.random() < 0.15:
        body["min_tokens"] = rng.randint(0, body.get(max_tokens, size))
    if rng.random() < 0.1:
        body[max_tokens] = rng.randint(1, 2 * size)
        body["ignore_eos"] = True
        body["min_tokens"] = min(body.get("min_tokens", 0), body[max_tokens])
    if rng.random() < 0.1:
        body["stop_token_ids"] = rng.sample(range(128), 10)
    if rng.random() < 0.4:
        body["stop"] = _stops(rng, text)
        body["include_stop_str_in_output"] = rng.random() < 0.5
    if rng.random() < 0.05:
        body["bad_words"] = _stops(rng, text)
    if rng.random() < 0.05:
        body["logit_bias"] = {str(rng.randrange(256)): -100, str(rng.randrange(256)): -100}
    if rng.random() < 0.1:
        body["skip_special_tokens"] = False


def _shown(rng: Random, body: dict[str, Any]) -> None:
    """Add fields of the answer other than its text."""
    if rng.random() < 0.2:
        body["return_token_ids"] = True
    if rng.random() < 0.1:
        body["return_tokens_as_token_ids"] = True
    if rng.random() < 0.3:
        body["n"] = rng.randint(1, 3)


def _chat(rng: Random) -> Case:
    model = rng.choice((MAIN, MAIN, MAIN, *PARSERS))
    text = _text(rng, MODELS[model])
    body: dict[str, Any] = {"model": model}
    tools = [{"type": "function", "function": function} for function in TOOLS]
    kind = rng.random()
    if kind < 0.3:
        body |= {"tools": tools, "tool_choice": "auto"}
    elif kind < 0.6:
        text, name = _demanded(rng)
        named = {"type": "function", "function": {"name": name}}
        body |= {"tools": tools, "tool_choice": named if name else "required"}
    elif kind < 0.7:
        text = json.dumps(_arguments(rng))
        body["response_format"] = {"type": "json_object"}
    if "tools" in body and rng.random() < 0.2:
        body["parallel_tool_calls"] = False
    _limits(rng, text, body, rng.choice(("max_tokens", "max_completion_tokens")))
    _forget_what_forms_forbid(body)
    _shown(rng, body)
    if rng.random() < 0.3:
        body |= {"logprobs": True, "top_logprobs": rng.randint(0, 3)}
    if rng.random() < 0.1:
        body["include_reasoning"] = False
    if rng.random() < 0.1:
        body["reasoning_effort"] = rng.choice(("none", "low"))
    body["messages"] = [{"role": "user", "content": text}]
    if rng.random() < 0.15:
        begun = rng.choice(("<think>", "<think>hm", "So", "<think></think>"))
        body["messages"].append({"role": "assistant", "content": begun})
        body |= {"continue_final_message": True, "echo": rng.random() < 0.5}
    return Case("/v1/chat/completions", body)


def _forget_what_forms_forbid(body: dict[str, Any]) -> None:
    """The dry-run engine has one text for each constraint, and it is finite."""
    if body.get("tool_choice", "auto") != "auto" or "response_format" in body or "text" in body:
        for name in ("min_tokens", "bad_words", "logit_bias", "ignore_eos"):
            body.pop(name, None)


def _completion(rng: Random) -> Case:
    texts = [_text(rng) for _ in range(rng.choice((1, 1, 2, 3)))]
    prompts: list[Any] = [*texts]
    if rng.random() < 0.3:
        prompts = [[*text.encode()][rng.randint(0, 2) :] or [65] for text in texts]
    body: dict[str, Any] = {"model": MAIN}
    _limits(rng, texts[0], body, "max_tokens")
    body.setdefault("max_tokens", max(100, body.get("min_tokens", 0)))
    _shown(rng, body)
    if rng.random() < 0.4:
        body["echo"] = True
        if rng.random() < 0.2:
            body = {**body, "max_tokens": 0, "min_tokens": 0}
    if rng.random() < 0.4:
        body["logprobs"] = rng.randint(0, 3)
    if rng.random() < 0.1:
        body["add_special_tokens"] = False
    body["prompt"] = prompts if len(prompts) > 1 else rng.choice((prompts, prompts[0]))
    return Case("/v1/completions", body)


def _response(rng: Random) -> Case:
    model = rng.choice((MAIN, MAIN, *PARSERS))
    text = _text(rng, MODELS[model])
    body: dict[str, Any] = {"model": model}
    tools = [{"type": "function", **function} for function in TOOLS]
    kind = rng.random()
    if kind < 0.3:
        body["tools"] = tools
    elif kind < 0.6:
        text, name = _demanded(rng)
        named = {"type": "function", "name": name}
        body |= {"tools": tools, "tool_choice": named if name else "required"}
    elif kind < 0.7:
        text = json.dumps(_arguments(rng))
        body["text"] = {"format": {"type": "json_object"}}
    _limits(rng, text, body, "max_output_tokens")
    _forget_what_forms_forbid(body)
    if rng.random() < 0.4:
        body |= {"include": ["message.output_text.logprobs"], "top_logprobs": rng.randint(0, 2)}
    if rng.random() < 0.5:
        body |= {"input": text, "instructions": "Be terse."}
    else:
        body["input"] = [{"role": "user", "content": [{"type": "input_text", "text": text}]}]
    return Case("/v1/responses", body)


def _message(rng: Random) -> Case:
    model = rng.choice((MAIN, MAIN, *PARSERS))
    text = _text(rng, MODELS[model])
    body: dict[str, Any] = {"model": model}
    tools = [{"name": f["name"], "input_schema": f["parameters"]} for f in TOOLS]
    kind = rng.random()
    if kind < 0.4:
        body["tools"] = tools
    elif kind < 0.7:
        text, name = _demanded(rng)
        named = {"type": "tool", "name": name}
        body |= {"tools": tools, "tool_choice": named if name else {"type": "any"}}
    body["max_tokens"] = rng.randint(1, len(text.encode()) + 20)
    if rng.random() < 0.4:
        body["stop_sequences"] = _stops(rng, text)
    if rng.random() < 0.2:
        body["thinking"] = {"type": rng.choice(("disabled", "adaptive"))}
    body["messages"] = [{"role": "user", "content": [{"type": "text", "text": text}]}]
    if rng.random() < 0.1:
        body["messages"].append({"role": "assistant", "content": "So"})
    return Case("/v1/messages", body)
