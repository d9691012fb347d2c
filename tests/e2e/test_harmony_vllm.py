"""gpt-oss's format on vLLM: a tiny model that says what it is told to, and is held to the rest."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.e2e.instance import Instance
from tests.tiny_model.harmony import GPT_OSS_CONFIG, make_harmony_model
from tests.tiny_model.scripted import make_scripted_model

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

SCRIPT = {
    "sayit": "<|channel|>final<|message|>It is fine.<|return|>",
    "callit": (
        ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Paris"}<|call|>'
    ),
    "thinkit": "<|channel|>analysis<|message|>I think<|end|>",
}
TOOLS: Any = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"enum": [city]}},
                "required": ["city"],
                "additionalProperties": False,
            },
        },
    }
    for name, city in (("get_weather", "Paris"), ("get_time", "Oslo"))
]


@pytest.fixture(scope="module")
def harmony(run_dirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    directory = tmp_path_factory.mktemp("model")
    make_scripted_model(directory, SCRIPT, 1024, harmony=True)
    with Instance(
        run_dirs,
        dry_run=False,
        model__model_id=str(directory),
        model__served_model_name="tiny",
        model__dtype="float32",
        model__max_model_len=1024,
        batch__max_num_seqs=4,
        # What vLLM itself sets for gpt-oss.
        model__engine_args={"structured_outputs_config": {"reasoning_parser": "openai_gptoss"}},
    ) as instance:
        yield instance
        assert not instance.has_problem()


def ask(served: Instance, text: str, **fields: Any) -> Any:
    with served.client() as client:
        return client.chat.completions.create(
            model="tiny",
            messages=[{"role": "user", "content": text}],
            temperature=0,
            max_tokens=200,
            **fields,
        ).choices[0]


def test_both_tokens_end_an_answer(harmony: Instance):
    said = ask(harmony, "sayit")
    assert (said.message.content, said.finish_reason) == ("It is fine.", "stop")
    called = ask(harmony, "callit", tools=TOOLS)
    (call,) = called.message.tool_calls
    assert (call.function.name, call.function.arguments) == ("get_weather", '{"city": "Paris"}')
    assert called.finish_reason == "tool_calls"


@pytest.mark.parametrize("text", ["sayit", "callit", "thinkit"])
def test_a_schema_is_for_the_final_message(harmony: Instance, text: str):
    schema = TOOLS[0]["function"]["parameters"]
    form: Any = {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}}
    choice = ask(harmony, text, response_format=form)
    assert json.loads(choice.message.content) == {"city": "Paris"}
    assert choice.message.reasoning == ("I think" if text == "thinkit" else None)
    assert choice.finish_reason == "stop"
    words = ask(harmony, text, extra_body={"structured_outputs": {"choice": ["yes", "no"]}})
    assert words.message.content in {"yes", "no"}


@pytest.mark.parametrize("text", ["sayit", "callit", "thinkit"])
def test_a_call_that_is_demanded(harmony: Instance, text: str):
    named: Any = {"type": "function", "function": {"name": "get_time"}}
    cities = {"get_weather": "Paris", "get_time": "Oslo"}
    for choice, names in (("required", cities.keys()), (named, {"get_time"})):
        answer = ask(harmony, text, tools=TOOLS, tool_choice=choice)
        (call,) = answer.message.tool_calls
        assert call.function.name in names
        assert json.loads(call.function.arguments) == {"city": cities[call.function.name]}
        assert answer.message.content is None
        assert answer.message.reasoning == ("I think" if text == "thinkit" else None)


def test_gpt_oss_s_own_architecture(run_dirs: Path, tmp_path: Path):
    """Its random weights say nothing, but what vLLM sets for it leaves constraints as they are."""
    directory = make_harmony_model(tmp_path / "model", config=GPT_OSS_CONFIG)
    end = Tokenizer.from_file(str(directory / "tokenizer.json")).token_to_id("<|end|>")
    with Instance(
        run_dirs,
        dry_run=False,
        model__model_id=str(directory),
        model__served_model_name="tiny",
        model__max_model_len=1024,
        model__engine_args={"load_format": "dummy", "enforce_eager": True},
        batch__max_num_seqs=4,
    ) as instance:
        # Reasoning that has begun ends at once.
        called = ask(instance, "Hi", tools=TOOLS, tool_choice="required", logit_bias={end: 100})
        assert not instance.has_problem()
    (call,) = called.message.tool_calls
    cities = {"get_weather": "Paris", "get_time": "Oslo"}
    assert json.loads(call.function.arguments) == {"city": cities[call.function.name]}
    assert called.finish_reason == "tool_calls"
