"""A model without a tokenizer.json, served by the real engine: as transformers reads it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.e2e.instance import Instance
from tests.tiny_model.sentencepiece_model import ADDED, END, OWN_END, make_sentencepiece_model
from tests.vllm_programs import OFFLINE, PROGRAM_TIMEOUT_S, run_program

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(PROGRAM_TIMEOUT_S + 30)]

MODEL = "llama"
MAX_NEW_TOKENS = 40
TEXTS = ["Hello world", " a  b ", "def add(a, b):\n    return a", "Прага 数学 🚂", f"x{END} y</s>z"]
CONVERSATIONS = [
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
    for text in TEXTS
]


def files_in(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in directory.iterdir()}


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_sentencepiece_model(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def client(run_dirs: Path, directory: Path) -> Iterator[openai.OpenAI]:
    before = files_in(directory)
    with (
        Instance(
            run_dirs,
            dry_run=False,
            server__workers=2,
            model__model_id=str(directory),
            model__served_model_name=MODEL,
            model__dtype="float32",
            model__engine_args={
                "load_format": "dummy",
                "override_generation_config": {"max_new_tokens": MAX_NEW_TOKENS},
            },
        ) as instance,
        instance.client() as client,
    ):
        yield client
    assert files_in(directory) == before


def ask(client: openai.OpenAI, number: int, **params: Any) -> Any:
    """Sample an answer: dummy weights prefer no token, so anything may come."""
    extra = {"return_token_ids": True, "ignore_eos": True, **params.pop("extra_body", {})}
    return client.chat.completions.create(
        model=MODEL,
        messages=CONVERSATIONS[number],  # type: ignore[arg-type]
        temperature=1,
        seed=number,
        extra_body=extra,
        **params,
    )


@pytest.fixture(scope="module")
def answers(client: openai.OpenAI) -> list[Any]:
    return [ask(client, number) for number in range(len(CONVERSATIONS))]


@pytest.fixture(scope="module")
def completions(client: openai.OpenAI) -> list[Any]:
    extra = {"return_token_ids": True}
    return [
        client.completions.create(model=MODEL, prompt=text, max_tokens=1, extra_body=extra)
        for text in TEXTS
    ]


@pytest.fixture(scope="module")
def reference(
    directory: Path, answers: list[Any], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    work = tmp_path_factory.mktemp("transformers")
    cases = {
        "conversations": CONVERSATIONS,
        "texts": TEXTS,
        "answers": [(one.prompt_token_ids, one.choices[0].token_ids) for one in answers],
    }
    (work / "cases.json").write_text(json.dumps(cases))
    arguments = (str(directory), str(work / "cases.json"), str(work / "report.json"))
    run_program("tests.e2e.transformers_program", *arguments, **OFFLINE)
    found: dict[str, Any] = json.loads((work / "report.json").read_bytes())
    return found


def test_conversations_and_texts_have_transformers_ids(
    answers: list[Any], completions: list[Any], reference: dict[str, Any]
) -> None:
    assert [answer.prompt_token_ids for answer in answers] == reference["conversations"]
    assert [one.choices[0].prompt_token_ids for one in completions] == reference["texts"]


def test_answers_have_transformers_text(answers: list[Any], reference: dict[str, Any]) -> None:
    texts = [answer.choices[0].message.content for answer in answers]
    assert texts == reference["answers"]
    assert len(set(texts)) == len(texts)


def test_a_stream_has_the_same_text(client: openai.OpenAI, answers: list[Any]) -> None:
    for number, answer in enumerate(answers):
        chunks = ask(client, number, stream=True)
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        assert text == answer.choices[0].message.content


def test_the_models_own_limit_ends_an_answer(answers: list[Any]) -> None:
    for answer in answers:
        assert answer.choices[0].finish_reason == "length"
        assert answer.usage.completion_tokens == MAX_NEW_TOKENS


@pytest.mark.parametrize(("token", "reported"), [(ADDED[END], None), (OWN_END, OWN_END)])
def test_both_ends_end_an_answer(client: openai.OpenAI, token: int, reported: int | None) -> None:
    answer = ask(client, 0, logit_bias={str(token): 100}, extra_body={"ignore_eos": False})
    (choice,) = answer.choices
    assert (choice.message.content, choice.finish_reason) == ("", "stop")
    assert choice.stop_reason == reported
