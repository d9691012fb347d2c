"""The network: its configuration and its random weights, written with the standard library only.

A safetensors file is an 8-byte little-endian header length, a JSON header that names each tensor's
type, shape and byte range, and the raw little-endian data
(https://github.com/huggingface/safetensors#format), so no array library is needed for it.
"""

from __future__ import annotations

import json
import math
import random
import struct
import sys
from array import array
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# Attention kernels for the CPU take head sizes of 32, 64, 80, ...: hence 2 heads of 32 and no
# smaller. One KV head shared by both keeps grouped-query attention in the tested path.
MODEL_CONFIG: dict[str, Any] = {
    "architectures": ["Qwen2ForCausalLM"],
    "model_type": "qwen2",
    "vocab_size": 2048,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "hidden_act": "silu",
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    # Tied embeddings would make every token predict itself: the residual stream still carries the
    # input embedding when it reaches the output layer.
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "attention_dropout": 0.0,
    # The type that vLLM's `dtype="auto"` keeps on a CPU. Measured there with 64 sequences: as fast
    # as float32, to which auto would not keep (it downcasts), and twice as fast as float16.
    "torch_dtype": "bfloat16",
    "use_cache": True,
}

_SEED = 20480
# How much larger than usual the query and key weights are. Attention then looks at a few earlier
# tokens instead of averaging all of them, so that every part of a prompt changes the answer and
# greedy text does not fall into a cycle.
_ATTENTION_SHARPNESS = 2.0
# Standard deviation of a uniform distribution of width 1.
_UNIFORM_STD = 1 / math.sqrt(12)


class _Tensor(NamedTuple):
    """One tensor of the checkpoint; std None means all ones (a norm's gain)."""

    name: str
    shape: tuple[int, ...]
    std: float | None


def write_weights(path: Path) -> None:
    """Write the checkpoint; the same bytes on every machine."""
    _write(path, _tensors(), _SEED)


def write_adapter_weights(path: Path, *, rank: int, seed: int) -> None:
    """Write a LoRA adapter of the attention's queries and values; the same bytes everywhere."""
    _write(path, _adapter_tensors(rank), seed)


def _write(path: Path, tensors: list[_Tensor], seed: int) -> None:
    # Random.random() alone is promised to repeat across Python versions, so the weights are
    # uniform; gauss() would also depend on the platform's logarithm and cosine.
    source = random.Random(seed)
    write_checkpoint(path, ((t.name, t.shape, _values(t, source)) for t in tensors))


def write_checkpoint(
    path: Path, tensors: Iterable[tuple[str, tuple[int, ...], array[float]]]
) -> None:
    """Write tensors, each a name, a shape and its values row by row, as bfloat16."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    blocks: list[bytes] = []
    offset = 0
    for name, shape, values in tensors:
        data = _bfloat16(values)
        header[name] = {
            "dtype": "BF16",
            "shape": list(shape),
            "data_offsets": [offset, offset + len(data)],
        }
        blocks.append(data)
        offset += len(data)
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format asks for data aligned to 8 bytes
    path.write_bytes(b"".join([struct.pack("<Q", len(text)), text, *blocks]))


def _tensors() -> list[_Tensor]:
    hidden: int = MODEL_CONFIG["hidden_size"]
    inner: int = MODEL_CONFIG["intermediate_size"]
    vocab: int = MODEL_CONFIG["vocab_size"]
    head = hidden // MODEL_CONFIG["num_attention_heads"]
    kv = head * MODEL_CONFIG["num_key_value_heads"]
    # This std keeps a unit-variance input at unit variance. Embeddings of 1.0 weigh as much as what
    # the layers add, so the next token depends on the last one and on the context alike.
    std = hidden**-0.5
    sharp_std = std * _ATTENTION_SHARPNESS
    tensors = [_Tensor("model.embed_tokens.weight", (vocab, hidden), 1.0)]
    for layer in range(MODEL_CONFIG["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        tensors += [
            _Tensor(f"{at}.input_layernorm.weight", (hidden,), None),
            _Tensor(f"{at}.self_attn.q_proj.weight", (hidden, hidden), sharp_std),
            _Tensor(f"{at}.self_attn.q_proj.bias", (hidden,), std),
            _Tensor(f"{at}.self_attn.k_proj.weight", (kv, hidden), sharp_std),
            _Tensor(f"{at}.self_attn.k_proj.bias", (kv,), std),
            _Tensor(f"{at}.self_attn.v_proj.weight", (kv, hidden), std),
            _Tensor(f"{at}.self_attn.v_proj.bias", (kv,), std),
            _Tensor(f"{at}.self_attn.o_proj.weight", (hidden, hidden), std),
            _Tensor(f"{at}.post_attention_layernorm.weight", (hidden,), None),
            _Tensor(f"{at}.mlp.gate_proj.weight", (inner, hidden), std),
            _Tensor(f"{at}.mlp.up_proj.weight", (inner, hidden), std),
            _Tensor(f"{at}.mlp.down_proj.weight", (hidden, inner), std),
        ]
    return [
        *tensors,
        _Tensor("model.norm.weight", (hidden,), None),
        _Tensor("lm_head.weight", (vocab, hidden), std),
    ]


def _adapter_tensors(rank: int) -> list[_Tensor]:
    hidden: int = MODEL_CONFIG["hidden_size"]
    head = hidden // MODEL_CONFIG["num_attention_heads"]
    outputs = {"q_proj": hidden, "v_proj": MODEL_CONFIG["num_key_value_heads"] * head}
    tensors = []
    for layer in range(MODEL_CONFIG["num_hidden_layers"]):
        for name, size in outputs.items():
            at = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            # Together they weigh about what the model's own weights do: the text changes.
            tensors += [
                _Tensor(f"{at}.lora_A.weight", (rank, hidden), hidden**-0.5),
                _Tensor(f"{at}.lora_B.weight", (size, rank), rank**-0.5),
            ]
    return tensors


def _values(tensor: _Tensor, source: random.Random) -> array[float]:
    count = math.prod(tensor.shape)
    if tensor.std is None:
        return array("f", [1.0]) * count
    width = tensor.std / _UNIFORM_STD
    draw = source.random
    return array("f", [(draw() - 0.5) * width for _ in range(count)])


def _bfloat16(values: array[float]) -> bytes:
    """Keep the upper half of each float32: that is bfloat16, rounded towards zero."""
    if sys.byteorder == "big":
        values.byteswap()
    return array("H", values.tobytes())[1::2].tobytes()
