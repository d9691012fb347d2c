"""What only a GPU can tell, as a model: the memory of a step, of CUDA graphs, and of the driver.

Where it comes from:
- A step (vllm/v1/worker/gpu_model_runner.py, profile_run): for each token of it the widest part of
  a layer - gate and up, and their product - and three hidden states. Llama 3.1 8B on an RTX 3090,
  vLLM 0.6: 2.07 GiB with 20,000 tokens and 2.98 GiB with 29,000; this model says 2.06 and 2.99
  (https://github.com/vllm-project/vllm/issues/10517).
- The sampler (_dummy_sampler_run there): for each sequence and token of the vocabulary its logit in
  16 and 32 bits, its probability, a random number, and what is between. gpt-oss-20b with 256
  sequences on an A100, vLLM 0.19: 1.2 GiB that are neither weights nor cache
  (https://myoceane.fr/index.php/ai-vllm-a100-gemma-4/). Versions that sorted took 38.5 bytes: 1.39
  GiB for 256 sequences of a Qwen 1.5B (issue 12529), 1.42 of Qwen2.5 7B (issue 13882).
- CUDA graphs: 0.25 MiB for each layer of each graph. 86 graphs took 0.73 GiB
  (https://github.com/vllm-project/vllm/pull/39559), 67 of 26 layers 0.44 GiB (issue 14696).
- The driver and its libraries: 0.03 to 0.35 GiB in those logs.
"""

from typing import Any

import msgspec

from vgate.fit.families import completed
from vgate.fit.layers import head_size, kv_heads

MIB, GIB = 1 << 20, 1 << 30

_GRAPH_LAYER_BYTES = MIB // 4
_SAMPLER_BYTES = 20.0  # for each sequence and token of the vocabulary
_DRIVER_BYTES = 150 * MIB
# What CUDA takes of the free memory before vLLM looks at it.
CUDA_BYTES = 512 * MIB
# What vLLM takes of a card by default; the rest is for what it doesn't count.
USUAL_SHARE = 0.92
# Experts work in pieces of so many tokens (VLLM_FUSED_MOE_CHUNK_SIZE).
_EXPERT_TOKENS = 16 * 1024
# vllm/engine/arg_utils.py, get_batch_defaults
_LARGE_CARD, _HUGE_CARD = 70 * GIB, 160 * GIB
# Sizes of which graphs are made (vllm/config/vllm.py, _set_cudagraph_sizes).
_MOST_GRAPH_TOKENS = 512
# V-Gate has graphs made for fewer sizes on smaller cards (`model.cuda_graphs`).
_FEW_GRAPHS_BELOW = 20 * GIB
# Images: what an encoder's layers take of a step at once, by its weights; a bound, not a measure.
_TOWER_SHARE = 0.5


class Card(msgspec.Struct, frozen=True):
    """A GPU's memory, and what vLLM may use of it.

    Attributes:
        total: All of it, in bytes.
        utilization: vLLM's gpu_memory_utilization.
        fp8: Whether it computes with 8 bit floats: from compute capability 8.9 on (Ada, Hopper).
        name: As the driver says it.
        free: What no other program uses now; None if that isn't known.
    """

    total: int
    utilization: float
    fp8: bool = True
    bfloat16: bool = True
    name: str = ""
    free: int | None = None

    @property
    def usable(self) -> int:
        """What vLLM takes in all."""
        return int(self.total * self.utilization)

    @property
    def most_utilization(self) -> float:
        """The highest utilization with which vLLM starts now, as far as that is known."""
        free = self.total if self.free is None else max(0, self.free - CUDA_BYTES)
        return free * 100 // self.total / 100


class Overhead(msgspec.Struct, frozen=True):
    """Bytes that are neither weights nor KV cache."""

    activations: int
    graphs: int
    driver: int

    @property
    def total(self) -> int:
        """All of them."""
        return self.activations + self.graphs + self.driver


def step_tokens(total: int, context: int, sequences: int) -> int:
    """Return the tokens of the largest step that vLLM chooses for a card."""
    usual = 16_384 if total >= _HUGE_CARD else 8192 if total >= _LARGE_CARD else 2048
    return max(1, min(usual, sequences * context))


def usual_sequences(total: int) -> int:
    """Return the most sequences at once that vLLM chooses for a card."""
    return 1024 if total >= _LARGE_CARD else 256


def overhead(
    text: dict[str, Any],
    *,
    tokens: int,
    sequences: int,
    element_bytes: int,
    tower_bytes: int = 0,
    few_graphs: bool = False,
) -> Overhead:
    """Return what a language model takes beside its weights and KV cache.

    Args:
        text: The configuration of the language model.
        tokens: The most in one step.
        sequences: The most in one step.
        element_bytes: The size of a number of the type that the model computes in.
        tower_bytes: The size of the weights that read images and sound.
        few_graphs: Whether CUDA graphs are made for fewer sizes of the batch.
    """
    text = completed(text)
    width = 3 * int(text["hidden_size"]) + _widest(text, tokens)
    step = tokens * width * element_bytes
    sampler = int(min(sequences, tokens) * int(text.get("vocab_size") or 0) * _SAMPLER_BYTES)
    tower = int(tower_bytes * _TOWER_SHARE)
    layers = int(text.get("num_hidden_layers") or 0)
    count = 2 * len(few_graph_sizes(sequences)) if few_graphs else _graphs(sequences)
    graphs = count * layers * _GRAPH_LAYER_BYTES
    return Overhead(max(step, sampler, tower), graphs, _DRIVER_BYTES)


def _widest(text: dict[str, Any], tokens: int) -> int:
    """Return the numbers that the widest part of a layer has for each token."""
    inner = text.get("intermediate_size") or 4 * int(text["hidden_size"])
    if isinstance(inner, list):
        inner = max(inner)
    dense = 3 * int(inner)
    try:
        attention = head_size(text) * (int(text["num_attention_heads"]) * 2 + 2 * kv_heads(text))
    except KeyError:
        attention = 0
    chosen = text.get("num_experts_per_tok")
    expert = text.get("moe_intermediate_size") or inner
    if not chosen or isinstance(expert, list):
        return max(dense, attention)
    wide = max(2 * int(expert), int(text["hidden_size"])) + int(expert)
    experts = int(int(chosen) * wide * min(1.0, _EXPERT_TOKENS / tokens))
    return max(dense if text.get("moe_intermediate_size") else 0, attention, experts)


def has_few_graphs(total: int) -> bool:
    """Whether V-Gate has graphs made for fewer sizes of the batch on a card, by its memory."""
    return total < _FEW_GRAPHS_BELOW


def few_graph_sizes(sequences: int) -> list[int]:
    """Return sizes of the batch up to the largest, each at most twice the one before.

    A step is padded to the next size, which costs little while it waits for the memory.
    """
    most = min(sequences, _MOST_GRAPH_TOKENS)
    sizes, step = [1, 2, 4, 8, 16], 16
    while sizes[-1] < most:
        sizes += [3 * step // 2, 2 * step]
        step *= 2
    return [*(size for size in sizes if size < most), most]


def _graphs(sequences: int) -> int:
    """Return how many graphs vLLM captures: for mixed steps, and for steps of one token each."""
    mixed = _sizes(min(2 * sequences, _MOST_GRAPH_TOKENS))
    return mixed + _sizes(min(sequences, _MOST_GRAPH_TOKENS))


def _sizes(most: int) -> int:
    small = sum(size <= most for size in (1, 2, 4))
    return small + len(range(8, min(most, 255) + 1, 8)) + len(range(256, most + 1, 16))
