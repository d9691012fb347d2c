"""OpenAI's Python client and the real engine, for what the dry-run engine can't show."""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import openai
import pytest
from pydantic import BaseModel, Field

from tests.e2e.instance import Instance
from tests.sdk.conversation import WEATHER, text_of, user

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(330)]

MODEL = "tiny"
EMBEDDER = "tiny-embed"
# The tiny model has random weights: what it says is arbitrary, so forms must bound it.
QUESTION = user("Tell me about a lighthouse!")
SEEDED: Any = {"model": MODEL, "messages": QUESTION, "max_tokens": 24, "temperature": 1}
GREEDY: Any = {**SEEDED, "temperature": 0}


class Report(BaseModel):
    """A value of bounded length for any model."""

    mood: Literal["good", "bad"]
    count: Literal[1, 2, 3]
    sure: bool
    word: str = Field(pattern="^[a-z]{1,5}$")


@pytest.fixture(scope="module")
def client(run_dirs: Path, tiny_model_dir: Path) -> Iterator[openai.OpenAI]:
    common = {"model_id": str(tiny_model_dir), "dtype": "float32"}
    with (
        Instance(
            run_dirs,
            dry_run=False,
            server__workers=1,
            model__model_id=common["model_id"],
            model__served_model_name=MODEL,
            model__dtype=common["dtype"],
            additional_models=[{**common, "task": "embed", "served_model_name": EMBEDDER}],
        ) as instance,
        instance.client() as client,
    ):
        yield client
        assert instance.has_problem() is None


def generate(client: openai.OpenAI, **params: Any) -> str:
    answer = client.chat.completions.create(**{**GREEDY, "max_tokens": 200, **params})
    assert answer.choices[0].finish_reason == "stop"
    return answer.choices[0].message.content or ""


def test_parse(client: openai.OpenAI):
    parsed = client.chat.completions.parse(
        model=MODEL, messages=QUESTION, response_format=Report, max_tokens=200
    )
    assert isinstance(parsed.choices[0].message.parsed, Report)


def test_a_streamed_constraint(client: openai.OpenAI):
    with client.chat.completions.stream(
        model=MODEL, messages=QUESTION, response_format=Report, max_tokens=200
    ) as stream:
        final = stream.get_final_completion()
    assert isinstance(final.choices[0].message.parsed, Report)


@pytest.mark.parametrize(
    ("outputs", "pattern"),
    [
        ({"choice": ["lighthouse", "salt"]}, "lighthouse|salt"),
        ({"regex": r"[a-c]{3}-\d{2}"}, r"[a-c]{3}-\d{2}"),
        ({"grammar": 'root ::= "yes" | "no"'}, "yes|no"),
        (
            {"json": {"type": "object", "properties": {"a": {"const": 1}}, "required": ["a"]}},
            r'\{\s*"a"\s*:\s*1\s*\}',
        ),
    ],
    ids=str,
)
def test_structured_outputs(client: openai.OpenAI, outputs: dict[str, Any], pattern: str):
    for temperature in (0, 1):
        text = generate(client, temperature=temperature, extra_body={"structured_outputs": outputs})
        assert re.fullmatch(pattern, text)


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "pick"}}])
@pytest.mark.parametrize("streamed", [False, True])
def test_a_required_call(client: openai.OpenAI, choice: Any, streamed: bool):
    parameters = {
        "type": "object",
        "properties": {"side": {"enum": ["left", "right"]}},
        "required": ["side"],
        "additionalProperties": False,
    }
    pick = {"type": "function", "function": {"name": "pick", "parameters": parameters}}
    params: Any = {
        "model": MODEL,
        "messages": QUESTION,
        "tools": [pick],
        "tool_choice": choice,
        "parallel_tool_calls": False,
        "max_tokens": 200,
    }
    if streamed:
        with client.chat.completions.stream(**params) as stream:
            message: Any = stream.get_final_completion().choices[0].message
    else:
        message = client.chat.completions.create(**params).choices[0].message
    (tool_call,) = message.tool_calls
    assert tool_call.function.name == "pick"
    assert json.loads(tool_call.function.arguments)["side"] in {"left", "right"}


def test_a_tool_round_trip(client: openai.OpenAI):
    messages: list[Any] = [
        *QUESTION,
        {
            "role": "assistant",
            "tool_calls": [
                {
                    "id": "call_1",
                    "type": "function",
                    "function": {"name": "get_weather", "arguments": '{"city": "Ulm"}'},
                }
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"},
    ]
    answer = client.chat.completions.create(**{**GREEDY, "messages": messages, "tools": [WEATHER]})
    without = client.chat.completions.create(**{**GREEDY, "messages": messages})
    assert answer.usage.prompt_tokens > without.usage.prompt_tokens


def test_logprobs_form_a_distribution(client: openai.OpenAI):
    answer = client.chat.completions.create(**GREEDY, logprobs=True, top_logprobs=5)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    spoken = b"".join(bytes(token.bytes or []) for token in tokens)
    assert spoken.decode(errors="ignore").startswith(answer.choices[0].message.content[:5])
    for token in tokens:
        shares = [math.exp(other.logprob) for other in token.top_logprobs]
        assert len(shares) == 5
        assert shares == sorted(shares, reverse=True)
        assert sum(shares) <= 1 + 1e-4
        # Greedy, so it is the most likely one.
        assert token.token == token.top_logprobs[0].token
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob, abs=1e-4)


def test_streamed_logprobs_are_the_same(client: openai.OpenAI):
    params = {**GREEDY, "logprobs": True, "top_logprobs": 2}
    whole = client.chat.completions.create(**params).choices[0].logprobs.content
    streamed = [
        token
        for chunk in client.chat.completions.create(**params, stream=True)
        if chunk.choices[0].logprobs
        for token in chunk.choices[0].logprobs.content or []
    ]
    assert [token.token for token in streamed] == [token.token for token in whole]
    for left, right in zip(streamed, whole, strict=True):
        assert left.logprob == pytest.approx(right.logprob, abs=1e-3)


def test_logprobs_of_an_echoed_prompt(client: openai.OpenAI):
    answer = client.completions.create(
        model=MODEL, prompt="The cat sat", logprobs=1, echo=True, max_tokens=0
    )
    logprobs = answer.choices[0].logprobs
    assert answer.choices[0].text == "".join(logprobs.tokens) == "The cat sat"
    assert logprobs.token_logprobs[0] is None
    assert all(value < 0 for value in logprobs.token_logprobs[1:])


@pytest.mark.parametrize("streamed", [False, True])
def test_offsets_of_an_echo_of_token_ids(client: openai.OpenAI, streamed: bool):
    text = "<|im_start|>user\nnaïve 😀 数学"
    (tokenized,) = client.completions.create(
        model=MODEL, prompt=text, max_tokens=1, extra_body={"return_token_ids": True}
    ).choices
    prompt: Any = tokenized.prompt_token_ids
    params: Any = {"model": MODEL, "prompt": prompt, "logprobs": 1, "echo": True, "max_tokens": 9}
    params |= {"temperature": 0, "extra_body": {"return_token_ids": True, "ignore_eos": True}}
    answers = client.completions.create(**params, stream=True) if streamed else None
    choices = [chunk.choices[0] for chunk in answers or [client.completions.create(**params)]]
    said = "".join(choice.text for choice in choices)
    assert said.startswith(text)
    # Each chunk has its tokens, and the last of them says how it ended.
    assert all(choice.logprobs.tokens for choice in choices)
    assert [choice.finish_reason for choice in choices][-1] == "length"
    tokens = prompt + [token for choice in choices for token in choice.token_ids]
    offsets = [at for choice in choices for at in choice.logprobs.text_offset]
    assert len(offsets) == len(tokens) == len(prompt) + 9
    for at, name in zip(offsets, [t for c in choices for t in c.logprobs.tokens], strict=True):
        # A token with a part of a character has no text of its own.
        assert said.startswith(name, at) or "\ufffd" in name
    assert offsets[len(prompt)] == len(text)


def test_seeds(client: openai.OpenAI):
    def sample(seed: int) -> str | None:
        answer = client.chat.completions.create(**SEEDED, seed=seed)
        return answer.choices[0].message.content

    assert sample(7) == sample(7) != sample(8)
    answer = client.chat.completions.create(**SEEDED, seed=7, n=2)
    texts = [choice.message.content for choice in answer.choices]
    assert texts[0] == sample(7) != texts[1]


def test_a_bias_bans_and_forces(client: openai.OpenAI):
    body = {"return_token_ids": True}
    first = client.chat.completions.create(**GREEDY, extra_body=body).choices[0].token_ids[0]
    banned = client.chat.completions.create(
        **GREEDY, logit_bias={str(first): -100}, extra_body=body
    )
    assert first not in banned.choices[0].token_ids
    allowed = client.chat.completions.create(
        **{**SEEDED, "max_tokens": 4}, extra_body={**body, "allowed_token_ids": [first]}
    )
    assert set(allowed.choices[0].token_ids) == {first}


def test_completions_of_texts_and_tokens(client: openai.OpenAI):
    params: Any = {"model": MODEL, "temperature": 0, "max_tokens": 8}
    body = {"return_token_ids": True}
    text = client.completions.create(prompt="The cat sat", **params, extra_body=body)
    ids = text.choices[0].prompt_token_ids
    both = client.completions.create(prompt=[ids, ids], **params)
    assert [choice.text for choice in both.choices] == [text.choices[0].text] * 2
    stream = client.completions.create(prompt=ids, stream=True, **params)
    assert "".join(chunk.choices[0].text for chunk in stream) == text.choices[0].text


def test_a_stream_equals_the_non_streaming_answer(client: openai.OpenAI):
    whole = client.chat.completions.create(**GREEDY).choices[0].message.content
    assert text_of(client.chat.completions.create(**GREEDY, stream=True)) == whole


def test_responses(client: openai.OpenAI):
    parsed = client.responses.parse(
        model=MODEL, input="Report!", text_format=Report, max_output_tokens=200
    )
    assert isinstance(parsed.output_parsed, Report)
    answer = client.responses.create(
        model=MODEL, input="Go on", max_output_tokens=16, temperature=0
    )
    assert 1 <= answer.usage.output_tokens <= 16


def test_embeddings(client: openai.OpenAI):
    texts = ["The cat sat on the mat.", "Stock markets fell."]
    exact = client.embeddings.create(model=EMBEDDER, input=texts, encoding_format="float").data
    packed = client.embeddings.create(model=EMBEDDER, input=texts).data
    for left, right in zip(exact, packed, strict=True):
        assert math.hypot(*left.embedding) == pytest.approx(1, abs=1e-4)
        assert left.embedding == pytest.approx(right.embedding, abs=1e-5)
    assert exact[0].embedding != pytest.approx(exact[1].embedding, abs=1e-3)


@pytest.mark.parametrize(
    ("params", "param"),
    [
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"extra_body": {"stop_token_ids": [10**6]}}, "stop_token_ids"),
        ({"extra_body": {"structured_outputs": {"regex": "("}}}, "structured_outputs.regex"),
        ({"extra_body": {"structured_outputs": {"grammar": "::="}}}, "structured_outputs.grammar"),
        ({"messages": [{"role": "user", "content": "x " * 30_000}]}, "messages"),
    ],
    ids=str,
)
def test_refused_parameters(client: openai.OpenAI, params: dict[str, Any], param: str):
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**{**GREEDY, **params})
    assert refused.value.param == param
