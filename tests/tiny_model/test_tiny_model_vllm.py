"""The tiny model in vLLM: the same ids, the same prompts, and text that is worth testing with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from tests.tiny_model.rendering import plain_environment, read_template
from tests.tiny_model.samples import CONVERSATIONS, TEXTS, mixed_texts
from tests.vllm_programs import OFFLINE, PROGRAM_TIMEOUT_S, run_program

# The first test waits for the probe, which mostly imports: slow on a busy machine.
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(PROGRAM_TIMEOUT_S + 30)]

MAX_TOKENS = 64
PROMPTS = [
    f"{opening} {number}"
    for number in range(4)
    for opening in (
        "Hello!",
        "What is the capital of France?",
        "Once upon a time there was",
        "def add(first, second):",
        "你好",
        "Explain",
        "😀",
        "<|im_start|>user\nTell me a story<|im_end|>\n<|im_start|>assistant\n",
    )
]
ALL_TEXTS = [*TEXTS, *mixed_texts(200)]


@pytest.fixture(scope="module")
def eos_ids(tiny_model_dir: Path) -> list[int]:
    config = json.loads((tiny_model_dir / "generation_config.json").read_text(encoding="utf-8"))
    ids: list[int] = config["eos_token_id"]
    return ids


@pytest.fixture(scope="module")
def report(
    tiny_model_dir: Path, eos_ids: list[int], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    scratch = tmp_path_factory.mktemp("probe")
    request = {
        "texts": ALL_TEXTS,
        "conversations": CONVERSATIONS,
        "prompts": PROMPTS,
        "eos_ids": eos_ids,
    }
    request_path, report_path = scratch / "request.json", scratch / "report.json"
    request_path.write_text(json.dumps(request), encoding="utf-8")
    run_program(
        "tests.tiny_model.vllm_probe",
        *(str(tiny_model_dir), str(request_path), str(report_path)),
        **OFFLINE,
    )
    result: dict[str, Any] = json.loads(report_path.read_text(encoding="utf-8"))
    return result


def test_ids_equal_those_of_the_file(report: dict[str, Any], tokenizer: Tokenizer) -> None:
    assert len(set(ALL_TEXTS)) >= 60
    differing = [
        text
        for text, ids in zip(ALL_TEXTS, report["ids"], strict=True)
        if tokenizer.encode(text).ids != ids
    ]
    assert differing == []


def test_template_renders_alike_in_plain_jinja(
    report: dict[str, Any], tiny_model_dir: Path
) -> None:
    template = plain_environment().from_string(read_template(tiny_model_dir))
    assert [template.render(conversation) for conversation in CONVERSATIONS] == report["rendered"]


def test_greedy_text_varies(report: dict[str, Any]) -> None:
    answers = report["runs"][0]
    assert [len(answer) for answer in answers] == [MAX_TOKENS] * len(PROMPTS)
    assert min(len(set(answer)) for answer in answers) > 20
    assert len({tuple(answer) for answer in answers}) == len(PROMPTS)


def test_greedy_text_is_deterministic(report: dict[str, Any]) -> None:
    first, second = report["runs"]
    assert first == second


def test_eos_is_rare_in_greedy_text(report: dict[str, Any], eos_ids: list[int]) -> None:
    ended = [answer for answer in report["runs"][0] if set(answer) & set(eos_ids)]
    assert len(ended) < len(PROMPTS) / 4


def test_both_eos_ids_end_an_answer(report: dict[str, Any], eos_ids: list[int]) -> None:
    assert report["endings"] == [[1, "stop"]] * len(eos_ids)


def test_no_sampling_defaults(report: dict[str, Any]) -> None:
    assert report["defaults"] == [1.0, 1.0, 0]


def test_text_holds_unfinished_characters(report: dict[str, Any], tokenizer: Tokenizer) -> None:
    tokens = [token for answer in report["runs"][0] for token in answer]
    unfinished = [token for token in tokens if "\ufffd" in tokenizer.decode([token])]
    assert 0.02 < len(unfinished) / len(tokens) < 0.5
    assert any("\ufffd" in text for text in report["texts"])
