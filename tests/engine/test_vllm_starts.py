"""25 starts that would not fit on the real vLLM (CPU build): each ends in a smaller, working one or
in one sentence with numbers.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.engine.vllm_starts_program import CASES
from tests.vllm_programs import PROGRAM_TIMEOUT_S, run_program

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(PROGRAM_TIMEOUT_S + 30)]

# Those that serve: how many tries it takes, and what is said of what was chosen.
SERVED: dict[str, tuple[int, list[str]]] = {
    "plenty": (1, ["context 4,096 (the model's own)", "of memory are available"]),
    "small_cache": (1, ["of the model's 4,096"]),
    "too_long_for_the_cache": (1, ["context lowered from 4,096 to", "no more fits"]),
    "little_memory": (1, ["of the model's 4,096", "0.2 GiB of memory is what it may take"]),
    "absent_sizes": (1, ["context 4,096 (the model's own)"]),
    "card": (1, ["91.2% of the GPU: 7.8 GiB of 8.0 GiB are free"]),
    "shared_card": (1, ["31.2% of the GPU: 3.0 GiB of 8.0 GiB are free"]),
    "asked_for_more": (1, ["the GPU's share lowered from 0.9 to 0.312: 3.0 GiB of 8.0 GiB"]),
    "bound": (1, ["25.0% of the GPU: 2.0 GiB of 8.0 GiB is what it may take"]),
    "bound_and_out": (2, ["25.0% of the GPU", "reduced once"]),
    "desktop": (1, ["75.0% of the GPU", "0.5 GiB of it left to the desktop"]),
    "silent_card": (1, ["70% of the GPU, whose driver doesn't tell its memory"]),
    "out_once": (2, ["up to 64 answers at once", "82.8% of the GPU", "reduced once"]),
    "out_in_warm_up": (3, ["reduced twice (batch.max_num_seqs 64 instead of 256)"]),
    "taken_meanwhile": (2, ["reduced once"]),
}
# Those that don't: how many tries, and what is said in the end.
REFUSED: dict[str, tuple[int, list[str]]] = {
    "no_cache": (1, ["max_model_len", "kv_cache_memory_bytes (20000)", "quantised"]),
    "no_memory": (1, ["the weights of", "take 2 MiB, and it may have 1 MiB"]),
    "huge_weights": (1, ["take 1024.0 GiB", "and it may have", "smaller model"]),
    "batch": (1, ["batch.max_num_seqs is 100000: set it to"]),
    "beyond_its_own": (1, ["model.max_model_len is 5000", "4096 tokens"]),
    "unknown_sizes": (1, ["num_hidden_layers"]),
    "address_space": (3, ["too little memory"]),
    "full_card": (6, ["the weights of", "0.2 GiB of 8.0 GiB are free", "end other programs"]),
    "out_always": (3, ["asked for 2.00 GiB more, and of 8.00 GiB", "Smaller starts failed, too"]),
    "no_blocks": (3, ["none is left for the KV cache", "Smaller starts failed, too"]),
}


@pytest.fixture(scope="module")
def report(tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    work = tmp_path_factory.mktemp("starts")
    path = work / "report.json"
    run_program(
        "tests.engine.vllm_starts_program",
        *(str(tiny_model_dir), str(work), str(path)),
        HF_HUB_OFFLINE="1",
    )
    result: dict[str, Any] = json.loads(path.read_bytes())
    return result


def test_all_are_there() -> None:
    assert sorted([*SERVED, *REFUSED]) == sorted(CASES)
    assert len(CASES) == 25


@pytest.mark.parametrize("name", SERVED)
def test_it_serves_smaller_and_says_so(report: dict[str, Any], name: str) -> None:
    tries, words = SERVED[name]
    *failed, last = report[name]
    assert (len(failed) + 1, last["status"]) == (tries, 0), report[name]
    assert [word for word in words if word not in last["chosen"]] == [], last
    assert all(size >= 1 for size in last["sizes"])
    # What `/ready` and `/stats` say.
    assert last["chosen"].split(", reduced")[0] in last.get("summary", last["chosen"])
    for number, told in enumerate(failed, start=1):
        assert f"It starts again smaller ({number} of 2)." in told["failed"]
        assert told["tells"]


def test_a_bounded_model_is_not_disturbed_by_others_that_leave(report: dict[str, Any]) -> None:
    """VLLM measures what is free before and after, unless it is told the cache's size."""
    assert report["card"][-1]["kv_bytes"] is None
    whole, reduced = (report[name][-1]["kv_bytes"] for name in ("bound", "bound_and_out"))
    assert 1 << 30 < whole < 2 << 30
    assert 0.5 * whole < reduced < whole


@pytest.mark.parametrize("name", REFUSED)
def test_it_says_why_in_numbers(report: dict[str, Any], name: str) -> None:
    tries, words = REFUSED[name]
    assert len(report[name]) == tries, report[name]
    last = report[name][-1]
    assert [word for word in words if word not in last["failed"]] == [], last
    assert any(letter.isdigit() for letter in last["failed"])
    assert len(last["failed"]) < 700
    assert "Traceback" not in last["failed"]
