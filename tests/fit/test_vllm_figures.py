"""Weights and KV cache against the figures of the real vLLM (CPU build), for each family."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.fit.checkpoints import capacity_tokens, checkpoint, draft_tensors, write_checkpoint
from tests.fit.families import DRAFTING, FAMILIES, LAYOUTS
from tests.vllm_programs import OFFLINE, PROGRAM_TIMEOUT_S, run_program
from vgate.fit import Checkpoint
from vgate.fit.layers import cached_layers
from vgate.fit.pages import KVCache, lay_out
from vgate.fit.weights import Weights, drafting_layers, loaded, model_dtype

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(PROGRAM_TIMEOUT_S + 30)]

# What vLLM's attention for CPUs has instead of 16. That for latent attention depends on the CPU.
BLOCK_TOKENS = 128
# vLLM keeps states in 32 bits on a CPU.
STATE_BYTES = 4
MEMORY = 1 << 28


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What vLLM says of all families, asked in one process."""
    scratch = tmp_path_factory.mktemp("families")
    for name, config in FAMILIES.items():
        write_checkpoint(scratch / name, config)
    for name, config in (LAYOUTS | DRAFTING).items():
        (scratch / name).mkdir()
        (scratch / name / "config.json").write_text(json.dumps(config))
    models = [str(scratch / name) for name in (*FAMILIES, *LAYOUTS, *DRAFTING)]
    report = scratch / "report.json"
    run_program("tests.fit.vllm_program", str(report), *models, **OFFLINE)
    found: dict[str, dict[str, Any]] = json.loads(Path(report).read_bytes())
    return found


def said_of(figures: dict[str, dict[str, Any]], family: str) -> dict[str, Any]:
    """Return what vLLM says of a family; skip the test if it has no kernel for this processor."""
    said = figures[family]
    if "requires AMX" in said.get("error", ""):
        pytest.skip("vLLM builds it only on a processor with AMX")
    return said


def element_bytes(config: dict[str, Any]) -> int:
    return 4 if model_dtype(checkpoint(config)) == "float32" else 2


def weights_of(config: dict[str, Any]) -> Weights:
    return loaded(checkpoint(config), element_bytes=element_bytes(config), quantization=None)


def cache_of(config: dict[str, Any], said: dict[str, Any]) -> KVCache:
    size, drafts = 2, config.get("num_nextn_predict_layers", 0)
    return lay_out(
        cached_layers(config, size, STATE_BYTES, drafts=drafts, draft_tokens=drafts),
        size,
        in_flight_tokens=said["in_flight_tokens"],
        prefix_caching=said["prefix_caching"],
        block_tokens=said["block_tokens"] if "kv_lora_rank" in config else BLOCK_TOKENS,
    )


@pytest.mark.parametrize("family", [*FAMILIES, *LAYOUTS, *DRAFTING])
def test_vllm_builds_the_family(figures: dict[str, dict[str, Any]], family: str):
    said = said_of(figures, family)
    assert "error" not in said, said.get("error")


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_exact(figures: dict[str, dict[str, Any]], family: str):
    said, found = said_of(figures, family), weights_of(FAMILIES[family])
    # Of GPTQ's files some is dropped when vLLM prepares its kernels, on GPUs, too.
    expected = said["processed" if family == "llama-gptq" else "created"]
    assert found.parameters == expected
    assert found.tables == said["tables"]
    assert model_dtype(checkpoint(FAMILIES[family])) in said["dtype"]


@pytest.mark.parametrize("family", DRAFTING)
def test_layers_that_draft_are_exact(figures: dict[str, dict[str, Any]], family: str):
    config = DRAFTING[family]
    files = Checkpoint(family, config, dict(draft_tensors(config)))
    drafts = drafting_layers(files)
    found = loaded(files, element_bytes=2, quantization=None, drafts=drafts)
    assert (drafts, found.parameters) == (1, figures[family]["drafting"])


@pytest.mark.parametrize("family", [*FAMILIES, *LAYOUTS, *DRAFTING])
def test_the_kv_cache_is_exact(figures: dict[str, dict[str, Any]], family: str):
    said = said_of(figures, family)
    cache = cache_of((FAMILIES | LAYOUTS | DRAFTING)[family], said)
    groups = sorted([group.layers, group.block_tokens] for group in cache.groups)
    assert said["capacity"].keys() == {"64", "1000", "4096"}
    if family != "mamba2":  # whose blocks need not hold tokens
        assert groups == said["groups"]
    for context, (blocks, tokens, concurrency) in said["capacity"].items():
        assert MEMORY // cache.block_bytes == blocks
        assert cache.concurrency(MEMORY, int(context)) == pytest.approx(concurrency, rel=1e-12)
        assert capacity_tokens(cache, MEMORY, int(context)) == tokens


def test_a_matrix_of_latent_attention_is_held_twice():
    """On a GPU; the CPU build packs it. Both forms have the elements of the file's."""
    config = FAMILIES["deepseek-mla"]
    heads, rank = config["num_attention_heads"], config["kv_lora_rank"]
    size = heads * (config["qk_nope_head_dim"] + config["v_head_dim"]) * rank * 2
    assert weights_of(config).copies == size * config["num_hidden_layers"]
