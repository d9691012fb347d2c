"""Options on the real vLLM (CPU build), compared with vLLM's own offline interface."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.vllm_options_program import SCHEMA
from tests.tiny_model import make_tiny_adapter, make_tiny_model
from tests.vllm_programs import OFFLINE, PROGRAM_TIMEOUT_S, run_program

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(2 * PROGRAM_TIMEOUT_S + 30)]

TOLERANCE = 1e-4
PROMPTS = [list(range(100, 140)), [7], [(31 * n) % 2000 for n in range(150)]]
GREEDY = {"temperature": 0.0, "max_tokens": 20, "ignore_eos": True}
SAMPLING = [
    {**GREEDY, "logprobs": 3, "prompt_logprobs": 2},
    {**GREEDY, "logprobs": 0, "prompt_logprobs": 0},
    {**GREEDY, "logprobs": 20, "temperature": 0.8, "top_p": 0.9, "seed": 3},
    {**GREEDY, "logit_bias": {300: 4.5, 301: -100.0}, "logprobs": 1},
    {**GREEDY, "allowed_token_ids": list(range(500, 700)), "logprobs": 1},
]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vllm-options")


@pytest.fixture(scope="module")
def model(scratch: Path) -> Path:
    return make_tiny_model(scratch / "model", thinking=True)


@pytest.fixture(scope="module")
def adapters(scratch: Path) -> list[str]:
    return [
        str(make_tiny_adapter(scratch / "first", rank=4, seed=1)),
        str(make_tiny_adapter(scratch / "second", rank=12, seed=2)),
    ]


@pytest.fixture(scope="module")
def cases(adapters: list[str]) -> list[dict[str, Any]]:
    plain = [
        {"prompt": prompt, "sampling": sampling, "adapter": None}
        for prompt in PROMPTS
        for sampling in SAMPLING
    ]
    return plain + [
        {"prompt": prompt, "sampling": SAMPLING[0], "adapter": adapter}
        for prompt in PROMPTS
        for adapter in adapters
    ]


@pytest.fixture(scope="module")
def report(
    scratch: Path, model: Path, adapters: list[str], cases: list[dict[str, Any]]
) -> dict[str, Any]:
    request, path = scratch / "request.json", scratch / "report.json"
    request.write_text(json.dumps(cases))
    arguments = (str(model), json.dumps(adapters), str(request), str(path))
    run_program("tests.engine.vllm_options_program", *arguments, **OFFLINE)
    result: dict[str, Any] = json.loads(path.read_bytes())
    return result


@pytest.fixture(scope="module")
def offline(scratch: Path, model: Path, cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    request, path = scratch / "offline-request.json", scratch / "offline.json"
    request.write_text(json.dumps(cases))
    run_program("tests.engine.vllm_offline", str(model), str(request), str(path), **OFFLINE)
    result: list[dict[str, Any]] = json.loads(path.read_bytes())
    return result


def assert_same_places(found: list[Any], expected: list[Any]) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        if theirs is None:
            assert ours is None
            continue
        token_ids, logprobs, rank = ours
        assert {str(token) for token in token_ids} == set(theirs)
        for token, logprob in zip(token_ids, logprobs, strict=True):
            assert logprob == pytest.approx(theirs[str(token)][0], abs=TOLERANCE)
        assert rank == theirs[str(token_ids[0])][1]


def test_tokens_and_logprobs_are_vllms(
    report: dict[str, Any], offline: list[dict[str, Any]], cases: list[dict[str, Any]]
) -> None:
    for ours, theirs, case in zip(report["cases"], offline, cases, strict=True):
        assert ours["token_ids"] == theirs["token_ids"], case
        assert_same_places(ours["logprobs"], theirs["logprobs"])
        assert_same_places(ours["prompt_logprobs"], theirs["prompt_logprobs"])
        assert len(ours["logprobs"]) == (20 if "logprobs" in case["sampling"] else 0)
        asked = "prompt_logprobs" in case["sampling"]
        assert len(ours["prompt_logprobs"]) == (len(case["prompt"]) if asked else 0)


def test_token_rules_hold(report: dict[str, Any], cases: list[dict[str, Any]]) -> None:
    for answer, case in zip(report["cases"], cases, strict=True):
        allowed = case["sampling"].get("allowed_token_ids", range(2048))
        assert set(answer["token_ids"]) <= set(allowed)
        assert not ("logit_bias" in case["sampling"] and 301 in answer["token_ids"])


def test_each_adapter_changes_the_output(
    report: dict[str, Any], cases: list[dict[str, Any]], adapters: list[str]
) -> None:
    for prompt in PROMPTS:
        said = {
            case["adapter"]: tuple(answer["token_ids"])
            for answer, case in zip(report["cases"], cases, strict=True)
            if case["prompt"] == prompt and case["sampling"] == SAMPLING[0]
        }
        assert set(said) == {None, *adapters}
        assert len(set(said.values())) == len(said)


def test_adapters_are_loaded_at_the_start(report: dict[str, Any]) -> None:
    assert report["phases"][-2:] == ["loading the adapter first", "loading the adapter second"]


def test_json_is_valid_for_its_schema(report: dict[str, Any]) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    assert len(set(report["json"])) > 1
    for text in report["json"]:
        value, end = text[: text.rindex("<|")], text[text.rindex("<|") :]
        assert end in {"<|im_end|>", "<|endoftext|>"}
        jsonschema.validate(json.loads(value), SCHEMA)


def test_a_grammar_applies_to_all_but_the_reasoning(report: dict[str, Any]) -> None:
    found = report["reasoning"]
    for name in ("closed_in_the_prompt", "closed_before_a_begun_answer", "no_reasoning"):
        assert found[name] == "yes<|im_end|>"
    # The model may open its reasoning, and if it doesn't, it answers.
    for name in ("not_begun", "closed_in_an_earlier_turn"):
        assert found[name] == "yes<|im_end|>"
    assert found["begins_itself"] == "<think></think>yes<|im_end|>"
    assert found["ends_at_once"] == "</think>yes<|im_end|>"
    for name in ("open", "wants_to_stop"):
        assert "</think>" not in found[name]
        assert "yes" not in found[name]
        assert "<|" not in found[name]
        assert len(found[name]) > len("yes<|im_end|>")


def test_the_operator_s_settings_of_grammars_win(report: dict[str, Any]) -> None:
    assert report["settings"]["structured"] == [
        ["xgrammar", True, ""],
        ["xgrammar", False, ""],
        ["auto", False, ""],
        ["guidance", True, "qwen3"],
    ]


def test_grammars_can_begin_after_reasoning_unless_the_operator_says_otherwise(
    report: dict[str, Any],
) -> None:
    assert report["settings"]["has_marks"] == [True, False, True]
