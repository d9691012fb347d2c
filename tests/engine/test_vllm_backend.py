"""The vLLM backend on the real vLLM (CPU build), beyond the contract suite."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.engine.vllm_program import BLOCK_TOKENS, KV_BLOCKS, NOT_DEFAULTS, SEQUENCES
from tests.vllm_programs import PROGRAM_TIMEOUT_S, run_program
from vgate.engine.tenants import reserved_seqs
from vgate.wire.parameters import DEFAULTS, SamplingParams

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(PROGRAM_TIMEOUT_S + 30)]


@pytest.fixture(scope="module")
def report(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    path = tmp_path_factory.mktemp("vllm-program") / "report.json"
    run_program("tests.engine.vllm_program", str(tiny_model_dir), str(path))
    result: dict[str, Any] = json.loads(path.read_bytes())
    return result


def test_it_reports_its_phases_and_its_model(report: dict[str, Any]) -> None:
    assert report["phases"] == [
        "importing vLLM",
        "reading the model's configuration",
        "reading the tokenizer",
        "loading weights",
        "measuring memory",
        "allocating the KV cache",
        "warming up",
    ]
    assert report["model"] == [256, SEQUENCES, BLOCK_TOKENS * KV_BLOCKS]
    assert report["places"] == SEQUENCES + reserved_seqs(SEQUENCES) > SEQUENCES


def test_a_model_s_only_process_has_one_group(report: dict[str, Any]) -> None:
    # The world's own, and the one in the place of all others.
    assert report["process_groups"] == {"threads": 2, "untouched_for_two": True}


def test_every_sampling_parameter_arrives(report: dict[str, Any]) -> None:
    given = msgspec.structs.asdict(NOT_DEFAULTS)
    forgotten = [name for name, value in given.items() if value in (None, getattr(DEFAULTS, name))]
    assert forgotten == [], "give it a value in vllm_program.NOT_DEFAULTS"
    assert set(given) == set(SamplingParams.__struct_fields__)
    # JSON has no numbers for keys.
    given["logit_bias"] = {str(token): bias for token, bias in given["logit_bias"].items()}
    assert report["parameters"]["mapped"] == given
    assert report["parameters"]["logprobs"] is None
    assert report["parameters"]["told"] == [4, 2, [[1], [2, 3]]]


def test_minus_one_is_a_seed_and_none_is_vllms_default(report: dict[str, Any]) -> None:
    assert report["parameters"]["seed_of_minus_one"] not in (None, -1)
    assert report["parameters"]["temperature_of_none"] == 1.0


def test_every_finish_reason_ends_a_request(report: dict[str, Any]) -> None:
    reasons = report["finish_reasons"]
    assert reasons.pop("None") == [None, None]
    assert reasons.pop("stop") == ["stop", None]
    assert reasons.pop("length") == ["length", None]
    assert set(reasons) >= {"abort", "error", "repetition"}
    assert set(map(tuple, reasons.values())) == {(None, "engine_unavailable")}


def test_a_preempted_batch_has_the_same_outputs(report: dict[str, Any]) -> None:
    found = report["preemption"]
    assert found["preemptions"] > 0
    assert found["told"] == found["counted"] > 0
    assert found["as_alone"]
    assert found["lengths"] == [150] * SEQUENCES
    assert found["usage_after"] == 0


def test_the_prefix_cache_counts_and_changes_nothing(report: dict[str, Any]) -> None:
    assert report["prefix_cache"] == {"cached": [0, 3 * BLOCK_TOKENS], "as_first": True}


def test_an_abort_frees_its_blocks_and_affects_no_other_request(report: dict[str, Any]) -> None:
    assert report["abort"] == {
        "ran": 2,
        "usage": [True, 0],
        "only_the_other_went_on": True,
        "step_without_work": None,
    }


def test_queued_batches_have_the_same_outputs(report: dict[str, Any]) -> None:
    assert report["batch_queue"] == {"same": True, "settled": True}


def test_end_of_text_ends_a_generation_unless_ignored(report: dict[str, Any]) -> None:
    found = report["ends"]
    assert found["stopped"] > 0
    assert found["at_eos"]
    assert found["none_before"]
    assert found["ignored"] > 0
    assert found["full"]


def test_invalid_requests_are_refused_and_leave_nothing_behind(report: dict[str, Any]) -> None:
    refusals = report["refusals"]
    codes = {name: (refusal[0], refusal[2]) for name, refusal in refusals.items()}
    assert codes == {
        "too_long": ("context_length_exceeded", "prompt"),
        "empty": ("invalid_value", None),
        "no_such_token": ("invalid_value", None),
        "no_such_stop_token": ("invalid_value", "stop_token_ids"),
    }
    assert "(parameter=" not in refusals["no_such_stop_token"][1]
    assert report["work_after_refusals"] is False
    assert report["still_works"] == 4


def test_a_dead_worker_ends_the_engine(report: dict[str, Any]) -> None:
    assert report["work_after_death"] is True
    assert "worker process" in report["death"]
