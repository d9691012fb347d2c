"""Structured output is what it says, whatever the schema and the model want.

A tiny random model that may reason is asked for random schemas, patterns and calls, and pushed by
`logit_bias` to what a schema does not allow. Everything that ends on its own must follow.
STRUCTURED_SOAK sets the number of outputs.
"""

import json
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import jsonschema
import pytest
from tokenizers import Tokenizer

from tests.e2e.answer_content import Content, content_of
from tests.e2e.instance import Instance
from tests.e2e.random_schemas import hostile_schema, random_pattern, random_schema
from tests.e2e.send_all import CHAT, send_all
from tests.tiny_model import make_tiny_model

OUTPUTS = int(os.environ.get("STRUCTURED_SOAK", "160"))
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600 + OUTPUTS // 2)]

MODEL = "tiny"
# Tokens that break JSON, patterns or the reasoning where they don't belong.
_UNWANTED = re.compile(r'[\x00-\x1f\x7f"\\{}\[\],:/]|think>|<\|')


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("thinking"), thinking=True)


@pytest.fixture(scope="module")
def tokenizer(model: Path) -> Tokenizer:
    return Tokenizer.from_file(str(model / "tokenizer.json"))


@pytest.fixture(scope="module")
def unwanted(tokenizer: Tokenizer) -> list[int]:
    size = tokenizer.get_vocab_size()
    texts = (tokenizer.decode([token], skip_special_tokens=False) for token in range(size))
    return [token for token, text in enumerate(texts) if _UNWANTED.search(text)]


@pytest.fixture(scope="module")
def served(run_dirs: Path, model: Path) -> Iterator[Instance]:
    with Instance(
        run_dirs,
        dry_run=False,
        server__workers=1,
        model__model_id=str(model),
        model__served_model_name=MODEL,
        model__dtype="float32",
        model__max_model_len=1024,
        batch__max_num_seqs=64,
    ) as instance:
        yield instance
        assert not instance.has_problem()


def ask(served: Instance, request: dict[str, Any]) -> list[Content]:
    """Return the content of an answer, as a whole and as a stream."""
    contents = []
    for reply in send_all(served.port, MODEL, [request, request]):
        assert reply.status == 200, reply.body
        contents.append(content_of(CHAT, reply))
    return contents


def refusal(served: Instance, request: dict[str, Any]) -> dict[str, Any]:
    (reply,) = send_all(served.port, MODEL, [request])
    assert reply.status == 400, reply.body
    error: dict[str, Any] = json.loads(reply.body)["error"]
    return error


def one_string(**limits: Any) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"a": {"type": "string", **limits}},
        "required": ["a"],
        "additionalProperties": False,
    }


def form(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}


def check(text: str, schema: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator)


STRINGS: list[tuple[dict[str, Any], str | None]] = [
    ({"maxLength": 8}, "\x01"),
    ({"minLength": 1}, "\t"),
    ({"minLength": 1, "maxLength": 3}, "\\"),
    ({"pattern": '^<a href="[a-z]{2}">$'}, None),
    ({"pattern": "^a\nb$"}, None),
    ({"pattern": r"^\\[\x00-\x1f]$"}, '"'),
    ({"pattern": '^[^"]{2}$'}, '"'),
    ({"pattern": "^[ab]+$", "maxLength": 3}, "a"),
    ({"format": "password", "maxLength": 5}, None),
    ({"format": "binary", "maxLength": 5}, None),
    ({"format": "byte", "pattern": "^[a-z]$"}, None),
    ({"format": "what is that", "maxLength": 2}, None),
]


@pytest.mark.parametrize(("limits", "wanted"), STRINGS, ids=map(str, range(len(STRINGS))))
def test_a_string_is_what_its_schema_says(
    served: Instance, tokenizer: Tokenizer, limits: dict[str, Any], wanted: str | None
):
    schema = one_string(**limits)
    request = {"response_format": form(schema), "temperature": 0, "max_tokens": 300}
    if wanted is not None:
        ids = tokenizer.encode(wanted).ids
        request["logit_bias"] = {str(token): 100 for token in ids}
    for content in ask(served, request):
        (choice,) = content["choices"]
        if choice["finish_reason"] == "stop":
            check(choice["text"], schema)
        else:
            # The wanted token is allowed, and nothing else is as likely, for ever.
            assert wanted is not None
            assert "maxLength" not in limits


REFUSED: list[tuple[dict[str, Any], str]] = [
    (one_string(pattern="^(?!a)[ab]$"), "`pattern` with look-ahead (`(?!`)"),
    (one_string(pattern="(?<=a)b"), "`pattern` with look-behind (`(?<=`)"),
    (one_string(pattern=r"^(a)\1$"), r"`pattern` with back-references (`\1`)"),
    (one_string(pattern=r"\bword\b"), r"`pattern` with word boundaries (`\b`)"),
    ({"type": "array", "items": {"not": {"type": "null"}}}, "`not`"),
    ({"type": "array", "uniqueItems": True}, "`uniqueItems`"),
    ({"oneOf": [{"type": "integer"}, {"type": "number"}]}, "`oneOf`"),
    ({"$ref": "https://example.com/schema"}, "`$ref` to another document"),
]


@pytest.mark.parametrize(("schema", "part"), REFUSED, ids=map(str, range(len(REFUSED))))
def test_what_cannot_be_followed_is_refused_by_name(
    served: Instance, schema: dict[str, Any], part: str
):
    error = refusal(served, {"response_format": form(schema)})
    assert (error["param"], error["type"]) == ("response_format", "invalid_request_error")
    assert part in error["message"]
    assert "is not supported" in error["message"]
    function = {"type": "function", "function": {"name": "f", "parameters": schema}}
    error = refusal(served, {"tools": [function], "tool_choice": "required"})
    assert error["param"] == "tools"
    assert part in error["message"]


def test_a_regular_expression_that_cannot_be_followed_is_refused(served: Instance):
    error = refusal(served, {"structured_outputs": {"regex": "(?=a)[ab]"}})
    assert error["param"] == "structured_outputs.regex"
    assert "look-ahead (`(?=`)" in error["message"]
    error = refusal(served, {"structured_outputs": {"regex": "(a"}})
    assert "parenthesis" in error["message"]


def call_of(schema: dict[str, Any], choice: Any = "required") -> dict[str, Any]:
    function = {"name": "f", "parameters": schema}
    return {"tools": [{"type": "function", "function": function}], "tool_choice": choice}


NAMED = {"type": "function", "function": {"name": "f"}}
SMALL = one_string(pattern="^[a-z]{2}$")


@pytest.mark.parametrize("reasons", [False, True])
def test_content_and_arguments_follow_whether_the_model_reasons_or_not(
    served: Instance, tokenizer: Tokenizer, *, reasons: bool
):
    begin, end = map(tokenizer.token_to_id, ("<think>", "</think>"))
    # It wants to close what it has not opened; or it opens it first.
    bias = {str(end): 100, str(begin): 50 if reasons else -100}
    common = {"logit_bias": bias, "max_tokens": 100}
    for content in ask(served, {"response_format": form(SMALL), **common}):
        check(content["choices"][0]["text"], SMALL)
    for content in ask(served, {"structured_outputs": {"choice": ["yes"]}, **common}):
        assert content["choices"][0]["text"] == "yes"
    for demanded in ("required", NAMED):
        for content in ask(served, {**call_of(SMALL, demanded), **common}):
            (choice,) = content["choices"]
            assert choice["text"] == ""
            ((name, arguments),) = choice["calls"][:1]
            assert name == "f"
            check(arguments, SMALL)


def test_reasoning_does_not_end_an_answer(served: Instance, tokenizer: Tokenizer):
    """A model that has begun to reason and wants to stop has not answered."""
    bias = {
        str(tokenizer.token_to_id("<|im_end|>")): 100,
        str(tokenizer.token_to_id("<think>")): 99,
    }
    request = {"response_format": form(SMALL), "logit_bias": bias, "max_tokens": 20}
    for content in ask(served, request):
        (choice,) = content["choices"]
        assert (choice["text"], choice["finish_reason"]) == ("", "length")
        assert choice["reasoning"]


@pytest.mark.parametrize("max_tokens", [*range(1, 14)])
def test_a_call_that_the_limit_cuts_is_no_content(served: Instance, max_tokens: int):
    schema = one_string(minLength=100)
    for demanded in ("required", NAMED):
        for content in ask(served, {**call_of(schema, demanded), "max_tokens": max_tokens}):
            (choice,) = content["choices"]
            assert (choice["text"], choice["finish_reason"]) == ("", "length")
            assert all(name == "f" for name, _ in choice["calls"])


def soak_request(rng: Random, unwanted: list[int]) -> tuple[dict[str, Any], Any]:
    """Return a request, and the schema or the pattern that the answer must follow."""
    request: dict[str, Any] = {"max_tokens": 250, "temperature": rng.choice([0, 0.7, 1, 2])}
    if rng.random() < 0.7:
        strength = rng.choice([2, 5, 10, 100])
        chosen = rng.sample(unwanted, rng.randint(1, 8))
        request["logit_bias"] = {str(token): strength for token in chosen}
    if rng.random() < 0.3:
        request["chat_template_kwargs"] = {"enable_thinking": False}
    if rng.random() < 0.15:
        pattern = random_pattern(rng)
        return {**request, "structured_outputs": {"regex": pattern}}, pattern
    hostile = rng.random() < 0.8
    schema = hostile_schema(rng) if hostile else random_schema(rng.randrange(10**6))
    kind = rng.random()
    if kind < 0.6:
        return {**request, "response_format": form(schema)}, schema
    if kind < 0.7:
        return {**request, "structured_outputs": {"json": schema}}, schema
    return {**request, **call_of(schema, NAMED if kind < 0.85 else "required")}, schema


def follows(choice: dict[str, Any], expected: Any) -> bool:
    """Check a choice; return whether it has ended on its own."""
    if choice["finish_reason"] == "length":
        return False
    if isinstance(expected, str):
        assert re.fullmatch(expected, choice["text"])
        return True
    texts = [arguments for _, arguments in choice["calls"]] or [choice["text"]]
    for text in texts:
        check(text, expected)
    return True


def test_soak(served: Instance, unwanted: list[int]):
    rng = Random(os.environ.get("STRUCTURED_SOAK_SEED", "1"))
    counts: Counter[str] = Counter()
    for _ in range(0, OUTPUTS, 500):
        pairs = [soak_request(rng, unwanted) for _ in range(min(500, OUTPUTS))]
        replies = send_all(served.port, MODEL, [request for request, _ in pairs], clients=64)
        for (request, expected), reply in zip(pairs, replies, strict=True):
            if reply.status == 400:
                assert json.loads(reply.body)["error"]["param"]
                counts["refused"] += 1
                continue
            assert reply.status == 200, (request, reply.body)
            (choice,) = content_of(CHAT, reply)["choices"]
            try:
                counts["ended" if follows(choice, expected) else "cut"] += 1
            except (AssertionError, ValueError, jsonschema.ValidationError):
                pytest.fail(f"{choice} does not follow: {request}")
    print(dict(counts))
    assert counts["ended"] > OUTPUTS / 3
    assert counts["refused"] < OUTPUTS / 5
