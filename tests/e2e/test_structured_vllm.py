"""Constraints on a tiny random model, with vLLM's CPU build."""

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from tests.e2e.answer_content import Content, content_of
from tests.e2e.instance import Instance
from tests.e2e.keep_alive import Client, json_post
from tests.e2e.random_schemas import random_schema
from tests.e2e.send_all import CHAT, send_all

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

MODEL = "tiny"
SCHEMAS = [random_schema(seed) for seed in range(100)]


@pytest.fixture(scope="module")
def served(run_dirs: Path, tiny_model_dir: Path) -> Iterator[Instance]:
    with Instance(
        run_dirs,
        dry_run=False,
        server__workers=2,
        model__model_id=str(tiny_model_dir),
        model__served_model_name=MODEL,
        model__dtype="float32",
        model__max_model_len=4096,
        batch__max_num_seqs=16,
    ) as instance:
        yield instance
        assert not instance.has_problem()


def ask_all(served: Instance, requests: list[dict[str, Any]], streamed: int = 1) -> list[Content]:
    """Send requests and return the answers in their order.

    Args:
        served: Who is asked.
        requests: What goes into the bodies.
        streamed: Those with an even number (0), or an odd one (1), are streamed.
    """
    answers = []
    replies = send_all(served.port, MODEL, requests, streamed=streamed)
    for request, reply in zip(requests, replies, strict=True):
        assert reply.status == 200, (reply.body, request)
        answers.append(content_of(CHAT, reply))
    return answers


def check(text: str, schema: dict[str, Any]) -> None:
    jsonschema.validate(json.loads(text), schema, jsonschema.Draft202012Validator)


def tool(schema: dict[str, Any], name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema}}


def test_the_schemas_differ_and_constrain_the_output():
    assert len({json.dumps(schema) for schema in SCHEMAS}) == len(SCHEMAS)
    for schema in SCHEMAS:
        jsonschema.Draft202012Validator.check_schema(schema)
    text = json.dumps(SCHEMAS)
    for word in ("$ref", "anyOf", "enum", "const", "pattern", "minItems", "minLength", "minimum"):
        assert text.count(f'"{word}"') > 10


@pytest.mark.parametrize("streamed", [0, 1])
def test_json_follows_its_schema(served: Instance, streamed: int):
    """Every schema is requested streamed and not: the two halves take turns."""
    requests: list[dict[str, Any]] = []
    for number, schema in enumerate(SCHEMAS):
        form = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
        outputs = {"json": json.dumps(schema) if number % 8 else schema}
        requests.append(
            {"response_format": form} if number % 4 < 2 else {"structured_outputs": outputs}
        )
    answers = ask_all(served, requests, streamed)
    for schema, answer in zip(SCHEMAS, answers, strict=True):
        (choice,) = answer["choices"]
        assert choice["finish_reason"] == "stop", (schema, choice)
        check(choice["text"], schema)
    assert len({answer["choices"][0]["text"] for answer in answers}) > 80


FORMS = [
    ({"regex": r"[a-z]{3,8}@[a-z]{2,5}\.(com|org)"}, r"[a-z]{3,8}@[a-z]{2,5}\.(com|org)"),
    ({"regex": r"\d{4}-(0[1-9]|1[0-2])"}, r"\d{4}-(0[1-9]|1[0-2])"),
    ({"regex": "(ü|ß🚂){1,5}"}, "(ü|ß🚂){1,5}"),
    ({"choice": ["yes", "no", "maybe not"]}, "yes|no|maybe not"),
    ({"choice": ['"', "\\", "東京"]}, r'"|\\|東京'),
    (
        {"grammar": 'root ::= verb " " [0-9]{1,3}\nverb ::= "go" | "wait"'},
        "(go|wait) [0-9]{1,3}",
    ),
    ({"grammar": 'start: "a" b "c"\nb: "1" | "2" b'}, "a2*1c"),
]


@pytest.mark.parametrize(("outputs", "expected"), FORMS, ids=map(str, range(len(FORMS))))
def test_other_constraints(served: Instance, outputs: dict[str, Any], expected: str):
    requests = [{"structured_outputs": outputs, "max_tokens": 500} for _ in range(6)]
    for answer in ask_all(served, requests):
        (choice,) = answer["choices"]
        assert choice["finish_reason"] == "stop"
        assert re.fullmatch(expected, choice["text"]), choice["text"]


AMBIGUOUS = [
    {"grammar": 'root ::= s\ns ::= "" | [a-z ] s | s [a-z ] | s s'},
    {"grammar": "root ::= s\ns ::= [a-z ] | s s | s s s | s s s s"},
]


@pytest.mark.parametrize("outputs", AMBIGUOUS, ids=["nullable", "four"])
def test_a_slow_grammar_does_not_delay_other_requests(served: Instance, outputs: dict[str, str]):
    slow = {
        "model": MODEL,
        "messages": [{"role": "user", "content": "Go on."}],
        "structured_outputs": outputs,
        "min_tokens": 900,
        "max_tokens": 1000,
    }
    quick = [{"structured_outputs": {"choice": ["yes"]}}, {"max_tokens": 5, "ignore_eos": True}]

    async def run() -> None:
        with Client(served.port) as one, Client(served.port) as other:
            waiting = asyncio.ensure_future(one.send(json_post(CHAT, slow), timeout_s=60))
            while not waiting.done():
                for body in quick:
                    sent = {**slow, "structured_outputs": None, "min_tokens": None, **body}
                    reply = await other.send(json_post(CHAT, sent), timeout_s=30)
                    assert reply.status == 200, reply.body
            refused = await waiting
            assert refused.status == 400, refused.body
            error = json.loads(refused.body)["error"]
            assert error["param"] == "structured_outputs.grammar"
            assert "too long" in error["message"]

    asyncio.run(run())


def test_arguments_of_a_named_tool_follow_its_schema(served: Instance):
    requests = [
        {
            "tools": [tool(schema, "wanted"), tool(SCHEMAS[0], "other")],
            "tool_choice": {"type": "function", "function": {"name": "wanted"}},
            "n": 2,
        }
        for schema in SCHEMAS[:40]
    ]
    for schema, answer in zip(SCHEMAS, ask_all(served, requests), strict=False):
        assert len(answer["choices"]) == 2
        for choice in answer["choices"]:
            assert (choice["text"], choice["finish_reason"]) == ("", "stop")
            ((name, arguments),) = choice["calls"]
            assert name == "wanted"
            check(arguments, schema)


def test_required_calls_follow_the_schemas_of_their_tools(served: Instance):
    pairs = [(schema, SCHEMAS[-1 - n]) for n, schema in enumerate(SCHEMAS[:40])]
    requests = [
        {
            "tools": [tool(_apart(one, "one"), "one"), tool(_apart(other, "other"), "other")],
            "tool_choice": "required",
            "parallel_tool_calls": number % 4 < 2,
            "n": 2,
        }
        for number, (one, other) in enumerate(pairs)
    ]
    called = set()
    most = 0
    for number, answer in enumerate(ask_all(served, requests)):
        assert len(answer["choices"]) == 2
        for choice in answer["choices"]:
            assert (choice["text"], choice["finish_reason"]) == ("", "tool_calls")
            assert len(choice["calls"]) >= 1
            assert len(choice["calls"]) == 1 or number % 4 < 2
            most = max(most, len(choice["calls"]))
            for name, arguments in choice["calls"]:
                check(arguments, dict(zip(("one", "other"), pairs[number], strict=True))[name])
                called.add(name)
    assert called == {"one", "other"}
    assert most > 1


def _apart(schema: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return a schema whose definitions have unique names."""
    text = json.dumps(schema)
    for before in ('"part', "$defs/part"):
        text = text.replace(before, before.replace("part", prefix))
    moved: dict[str, Any] = json.loads(text)
    return moved


def test_other_apis_apply_constraints_too(served: Instance):
    # These APIs' requests have no seed, or give arguments as an object: see `check`.
    schema = next(schema for schema in SCHEMAS if "minLength" not in json.dumps(schema))
    form = {"type": "json_schema", "name": "n", "schema": schema}
    function = {"type": "function", "name": "wanted", "parameters": schema}
    for body in (
        {"text": {"format": form}},
        {"tools": [function], "tool_choice": {"type": "function", "name": "wanted"}},
    ):
        for answer in ask_others(served, "/v1/responses", {"input": "Say something.", **body}):
            assert answer["status"] == "completed"
            (choice,) = answer["choices"]
            check(choice["calls"][0][1] if choice["calls"] else choice["text"], schema)
    used = {"name": "wanted", "input_schema": schema}
    body = {
        "messages": [{"role": "user", "content": "Say something."}],
        "max_tokens": 2000,
        "tools": [used],
        "tool_choice": {"type": "tool", "name": "wanted"},
    }
    for answer in ask_others(served, "/v1/messages", body):
        ((name, arguments),) = answer["choices"][0]["calls"]
        assert name == "wanted"
        check(json.dumps(arguments), schema)


def ask_others(served: Instance, path: str, body: dict[str, Any]) -> list[Content]:
    """Send a request to another API, streamed and not."""

    async def run() -> list[Content]:
        with Client(served.port) as client:
            answers = []
            for stream in (False, True):
                sent = {"model": MODEL, "stream": stream, **body}
                reply = await client.send(json_post(path, sent), timeout_s=300)
                assert reply.status == 200, reply.body
                answers.append(content_of(path, reply))
            return answers

    return asyncio.run(run())
