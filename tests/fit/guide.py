"""Writes the tables of docs/small-gpus.md: which models fit a card, from what `vgate fit` computes.

    python -m tests.fit.guide

The models are described as their config.json on the Hub does, https://huggingface.co/NAME, read in
2026; their weights are those that the configuration makes.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from tests.fit.checkpoints import checkpoint
from tests.fit.published import _int4, _llama
from vgate.fit import Checkpoint, Estimate, Settings, Tensor, estimate
from vgate.fit.gpu import GIB, USUAL_SHARE, Card
from vgate.fit.weights import loaded

PAGE = Path(__file__).parents[2] / "docs" / "small-gpus.md"
# CUDA shows a little less of a card than what is written on it.
CARD_SHARE = 0.98
CARDS_GIB = (6, 8, 12, 16, 24)
USERS = (1, 4, 16)
# Shorter contexts are of no use to most.
LEAST_TOKENS = 2048
# What makes a good first choice: so many answers at once, with so many tokens each.
GOOD_USERS, GOOD_TOKENS = 4, 4096
MOST_ROWS = 9
_TABLES = re.compile(r"(?ms)^<!-- cards -->\n.*?^<!-- end -->\n")


class Listed(msgspec.Struct, frozen=True):
    """A model of the tables.

    Attributes:
        name: On the Hub.
        billions: Of parameters.
        loaded: Bytes of the weights where a source has measured them.
        tower: Parameters that read images, in 16 bits.
    """

    name: str
    billions: float
    format: str
    config: dict[str, Any]
    loaded: int = 0
    tower: int = 0


_QWEN3_2B = ("qwen3", (2048, 6144, 28, 16, 8, 151936), 40960)
_QWEN3_4B = ("qwen3", (2560, 9728, 36, 32, 8, 151936), 40960)
_QWEN3_8B = ("qwen3", (4096, 12288, 36, 32, 8, 151936), 40960)
_QWEN3_14B = ("qwen3", (5120, 17408, 40, 40, 8, 151936), 40960)
_LLAMA_8B = ("llama", (4096, 14336, 32, 32, 8, 128256), 131072)
_AWQ, _HEAD = _int4("awq"), {"head_dim": 128}
_FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
_TIED = {"tie_word_embeddings": True}
_W4A16 = {
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": {"num_bits": 4}}},
    }
}
_GEMMA = {**_TIED, **_W4A16, "head_dim": 256, "sliding_window": 1024, "sliding_window_pattern": 6}
_EXPERTS = {"n_routed_experts": 128, "moe_intermediate_size": 768, "num_experts_per_tok": 8}
# SigLIP and what leads from it into the model.
_TOWER = 420_000_000

MODELS = [
    Listed(
        "Qwen/Qwen3-1.7B",
        1.7,
        "BF16",
        _llama("qwen3", (2048, 6144, 28, 16, 8, 151936), 40960, **_TIED),
    ),
    Listed(
        "meta-llama/Llama-3.2-3B-Instruct",
        3.2,
        "BF16",
        _llama("llama", (3072, 8192, 28, 24, 8, 128256), 131072, **_TIED),
    ),
    Listed("Qwen/Qwen3-4B-AWQ", 4.0, "AWQ", _llama(*_QWEN3_4B, **_AWQ, **_HEAD, **_TIED)),
    Listed("Qwen/Qwen3-4B", 4.0, "BF16", _llama(*_QWEN3_4B, **_HEAD, **_TIED)),
    Listed(
        "Qwen/Qwen2.5-7B-Instruct-AWQ",
        7.6,
        "AWQ",
        _llama("qwen2", (3584, 18944, 28, 28, 4, 152064), 32768, **_AWQ),
    ),
    Listed(
        "hugging-quants/Meta-Llama-3.1-8B-Instruct-AWQ-INT4", 8.0, "AWQ", _llama(*_LLAMA_8B, **_AWQ)
    ),
    Listed("Qwen/Qwen3-8B-AWQ", 8.2, "AWQ", _llama(*_QWEN3_8B, **_AWQ, **_HEAD)),
    Listed("Qwen/Qwen3-8B-FP8", 8.2, "FP8", _llama(*_QWEN3_8B, **_FP8, **_HEAD)),
    Listed("Qwen/Qwen3-8B", 8.2, "BF16", _llama(*_QWEN3_8B, **_HEAD)),
    Listed("Qwen/Qwen3-14B-AWQ", 14.8, "AWQ", _llama(*_QWEN3_14B, **_AWQ, **_HEAD)),
    Listed("Qwen/Qwen3-14B-FP8", 14.8, "FP8", _llama(*_QWEN3_14B, **_FP8, **_HEAD)),
    Listed(
        "RedHatAI/gemma-3-4b-it-quantized.w4a16",
        4.3,
        "INT4",
        _llama("gemma3_text", (2560, 10240, 34, 8, 4, 262208), 131072, **_GEMMA),
        tower=_TOWER,
    ),
    Listed(
        "RedHatAI/gemma-3-12b-it-quantized.w4a16",
        12.2,
        "INT4",
        _llama("gemma3_text", (3840, 15360, 48, 16, 8, 262208), 131072, **_GEMMA),
        tower=_TOWER,
    ),
    # 13.72 GiB: https://myoceane.fr/index.php/ai-vllm-a100-gemma-4/
    Listed(
        "openai/gpt-oss-20b",
        20.9,
        "MXFP4",
        _llama(
            "gpt_oss",
            (2880, 2880, 24, 64, 8, 201088),
            131072,
            head_dim=64,
            sliding_window=128,
            num_experts_per_tok=4,
        ),
        loaded=int(13.72 * GIB),
    ),
    Listed(
        "stelterlab/Qwen3-30B-A3B-Instruct-2507-AWQ",
        30.5,
        "AWQ",
        _llama("qwen3_moe", (2048, 6144, 48, 32, 4, 151936), 262144, **_AWQ, **_HEAD, **_EXPERTS),
    ),
    Listed(
        "Qwen/Qwen3-32B-AWQ",
        32.8,
        "AWQ",
        _llama("qwen3", (5120, 25600, 64, 64, 8, 151936), 40960, **_AWQ, **_HEAD),
    ),
]


def files_of(model: Listed) -> Checkpoint:
    """Return what `vgate fit` reads of a model."""
    if model.name not in _FILES:
        _FILES[model.name] = _made(model)
    return _FILES[model.name]


_FILES: dict[str, Checkpoint] = {}


def _made(model: Listed) -> Checkpoint:
    """Return the weights as one tensor of their size, which is computed faster than all of them."""
    size = model.loaded
    if not size:
        found = loaded(checkpoint(model.config), element_bytes=2, quantization=None)
        size = found.parameters + found.copies
    tensors = {"weights": Tensor("U8", [size])}
    if model.tower:
        tensors["vision_tower.weights"] = Tensor("U8", [2 * model.tower])
    return Checkpoint(model.name, model.config, tensors)


def on_card(model: Listed, gib: int, users: int, **settings: Any) -> Estimate:
    """Return what a model takes of a card, as `vgate fit` with --vram and --concurrency says."""
    card = Card(int(gib * GIB * CARD_SHARE), USUAL_SHARE)
    return estimate(files_of(model), card, Settings(sequences=users, **settings))


def longest(model: Listed, gib: int, users: int, **settings: Any) -> int:
    """Return the longest context with which so many answers fit at once."""
    return on_card(model, gib, users, **settings).longest(users)


def table(gib: int) -> Iterator[str]:
    """Yield the lines of a card's table: the models with the most parameters first."""
    models = [model for model in MODELS if longest(model, gib, 1) >= LEAST_TOKENS]
    models.sort(key=lambda model: (-model.billions, -on_card(model, gib, 1).weights.total))
    good = next((one for one in models if longest(one, gib, GOOD_USERS) >= GOOD_TOKENS), None)
    yield f"### {gib} GB\n\n"
    heads = ["model", "format", "weights", *(f"{n} at once" for n in USERS), "4, fp8 KV"]
    yield f"| {' | '.join(heads)} |\n|---|---|{'---:|' * (len(heads) - 2)}\n"
    for model in models[:MOST_ROWS]:
        name = f"**`{model.name}`**" if model is good else f"`{model.name}`"
        weights = f"{on_card(model, gib, 1).weights.total / GIB:.1f} GiB"
        lengths = [longest(model, gib, users) for users in USERS]
        lengths.append(longest(model, gib, GOOD_USERS, kv_cache_dtype="fp8"))
        cells = [name, model.format, weights]
        cells += [f"{tokens:,}" if tokens >= LEAST_TOKENS else "-" for tokens in lengths]
        yield f"| {' | '.join(cells)} |\n"
    yield "\n"


def rendered(page: str) -> str:
    """Return the page with current tables."""
    tables = "".join(line for gib in CARDS_GIB for line in table(gib))
    return _TABLES.sub(lambda _: f"<!-- cards -->\n\n{tables}<!-- end -->\n", page)


if __name__ == "__main__":
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
