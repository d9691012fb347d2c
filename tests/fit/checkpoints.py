"""Checkpoints by configuration: the tensors that a family's files hold, and files of them.

The names and shapes are those of the families' own files, so that the real vLLM loads them.
"""

import json
import random
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vgate.fit import Checkpoint, Tensor
from vgate.fit.pages import KVCache

Tensors = dict[str, Tensor]

TOKENS = 2048


def capacity_tokens(cache: KVCache, memory: int, tokens: int) -> int:
    """Return vLLM's "KV cache size" for sequences of at most so many tokens."""
    return int(cache.concurrency(memory, tokens) * tokens)


def checkpoint(config: dict[str, Any], name: str = "tiny") -> Checkpoint:
    """Return what would be read of a model with this configuration."""
    return Checkpoint(name, config, dict(tensors(config)))


def tensors(config: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a model's files."""
    text = config.get("text_config") or config
    kind = text["model_type"]
    begin = "language_model." if "text_config" in config else ""
    dtype = {"float32": "F32", "float16": "F16"}.get(config.get("torch_dtype", ""), "BF16")
    quantization = config.get("quantization_config")
    hidden, vocab = text["hidden_size"], text["vocab_size"]
    final = {"jamba": "final_layernorm", "granitemoehybrid": "norm"}.get(kind, "norm")
    yield f"{begin}model.embed_tokens.weight", Tensor(dtype, [vocab, hidden])
    for index in range(text["num_hidden_layers"]):
        at = f"{begin}model.layers.{index}"
        for name, shape in _layer(text, kind, index):
            if len(shape) == 2 and name.endswith("proj.weight") and quantization:
                yield from _quantized(f"{at}.{name}", shape, quantization, dtype)
            else:
                wide = name.endswith(("A_log", "e_score_correction_bias"))
                yield f"{at}.{name}", Tensor("F32" if wide else dtype, shape)
    yield f"{begin}model.{final}.weight", Tensor(dtype, [hidden])
    if not text.get("tie_word_embeddings", kind.startswith("gemma")):
        yield f"{begin}lm_head.weight", Tensor(dtype, [vocab, hidden])


def draft_tensors(config: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of the layers with which a model drafts tokens."""
    hidden, vocab, layers = (config[n] for n in ("hidden_size", "vocab_size", "num_hidden_layers"))
    kind = config["model_type"]
    vocabulary, norms = [vocab, hidden], ("enorm", "hnorm", "shared_head.norm")
    if kind == "qwen3_next":
        at = "mtp.layers.0"
        norms = ("mtp.norm", "mtp.pre_fc_norm_embedding", "mtp.pre_fc_norm_hidden")
        others = {"mtp.fc": [hidden, 2 * hidden]}
    else:
        at = f"model.layers.{layers}"
        norms = tuple(f"{at}.{norm}" for norm in norms)
        # The files have the vocabulary again, which vLLM doesn't hold twice.
        others = {"eh_proj": [hidden, 2 * hidden], "embed_tokens": vocabulary}
        others = {f"{at}.{name}": shape for name, shape in others.items()}
        others[f"{at}.shared_head.head"] = vocabulary
    for name in norms:
        yield f"{name}.weight", Tensor("BF16", [hidden])
    for name, shape in others.items():
        yield f"{name}.weight", Tensor("BF16", shape)
    for name, shape in _layer(config, kind, layers):
        yield f"{at}.{name}", Tensor("BF16", shape)


def _layer(text: dict[str, Any], kind: str, index: int) -> Iterator[tuple[str, list[int]]]:
    hidden = text["hidden_size"]
    if kind == "jamba":
        yield from _jamba(text, index)
        return
    if kind == "granitemoehybrid":
        yield from _granite(text, index)
        return
    yield "input_layernorm.weight", [hidden]
    yield "post_attention_layernorm.weight", [hidden]
    if kind.startswith(("gemma2", "gemma3")):
        yield "pre_feedforward_layernorm.weight", [hidden]
        yield "post_feedforward_layernorm.weight", [hidden]
    if "kv_lora_rank" in text:
        yield from _latent(text)
    else:
        yield from _attention(text, kind)
    yield from _mlp(text, kind, index)


def _attention(text: dict[str, Any], kind: str) -> Iterator[tuple[str, list[int]]]:
    hidden, heads = text["hidden_size"], text["num_attention_heads"]
    size = text.get("head_dim") or hidden // heads
    gated = 2 if kind == "qwen3_next" else 1
    kv = text.get("num_key_value_heads", heads) * size
    if kind == "phi3":
        yield "self_attn.qkv_proj.weight", [heads * size + 2 * kv, hidden]
        yield "self_attn.o_proj.weight", [hidden, heads * size]
        return
    for name, rows in (("q", gated * heads * size), ("k", kv), ("v", kv)):
        yield f"self_attn.{name}_proj.weight", [rows, hidden]
        if kind in {"qwen2", "qwen2_5_vl_text"}:
            yield f"self_attn.{name}_proj.bias", [rows]
    yield "self_attn.o_proj.weight", [hidden, heads * size]
    if kind.startswith(("qwen3", "gemma3")):
        yield "self_attn.q_norm.weight", [size]
        yield "self_attn.k_norm.weight", [size]


def _latent(text: dict[str, Any]) -> Iterator[tuple[str, list[int]]]:
    hidden, heads, rank = text["hidden_size"], text["num_attention_heads"], text["kv_lora_rank"]
    rope, nope, value = (text[f"{n}_head_dim"] for n in ("qk_rope", "qk_nope", "v"))
    yield "self_attn.q_proj.weight", [heads * (nope + rope), hidden]
    yield "self_attn.kv_a_proj_with_mqa.weight", [rank + rope, hidden]
    yield "self_attn.kv_a_layernorm.weight", [rank]
    yield "self_attn.kv_b_proj.weight", [heads * (nope + value), rank]
    yield "self_attn.o_proj.weight", [hidden, heads * value]


def _mlp(text: dict[str, Any], kind: str, index: int) -> Iterator[tuple[str, list[int]]]:
    hidden, inner = text["hidden_size"], text["intermediate_size"]
    if kind == "phi3":
        yield "mlp.gate_up_proj.weight", [2 * inner, hidden]
        yield "mlp.down_proj.weight", [hidden, inner]
        return
    experts = text.get("n_routed_experts") or text.get("num_experts")
    if not experts or index < text.get("first_k_dense_replace", 0):
        yield from _gated("mlp", hidden, inner)
        return
    size = text["moe_intermediate_size"]
    yield "mlp.gate.weight", [experts, hidden]
    for expert in range(experts):
        yield from _gated(f"mlp.experts.{expert}", hidden, size)
    if kind in {"deepseek_v3", "glm4_moe"}:
        yield "mlp.gate.e_score_correction_bias", [experts]
    if kind == "qwen3_next":
        yield "mlp.shared_expert_gate.weight", [1, hidden]
        yield from _gated("mlp.shared_expert", hidden, text["shared_expert_intermediate_size"])
    if shared := text.get("n_shared_experts"):
        yield from _gated("mlp.shared_experts", hidden, shared * size)


def _gated(at: str, hidden: int, inner: int) -> Iterator[tuple[str, list[int]]]:
    yield f"{at}.gate_proj.weight", [inner, hidden]
    yield f"{at}.up_proj.weight", [inner, hidden]
    yield f"{at}.down_proj.weight", [hidden, inner]


def _jamba(text: dict[str, Any], index: int) -> Iterator[tuple[str, list[int]]]:
    hidden, state = text["hidden_size"], text["mamba_d_state"]
    yield "input_layernorm.weight", [hidden]
    yield "pre_ff_layernorm.weight", [hidden]
    if index % text["attn_layer_period"] == text["attn_layer_offset"]:
        yield from _attention(text, "jamba")
    else:
        inner, rank = text["mamba_expand"] * hidden, text["mamba_dt_rank"]
        yield "mamba.A_log", [inner, state]
        yield "mamba.D", [inner]
        yield "mamba.conv1d.weight", [inner, 1, text["mamba_d_conv"]]
        yield "mamba.conv1d.bias", [inner]
        yield "mamba.in_proj.weight", [2 * inner, hidden]
        yield "mamba.x_proj.weight", [rank + 2 * state, inner]
        yield "mamba.dt_proj.weight", [inner, rank]
        yield "mamba.dt_proj.bias", [inner]
        yield "mamba.out_proj.weight", [hidden, inner]
        yield "mamba.dt_layernorm.weight", [rank]
        yield "mamba.b_layernorm.weight", [state]
        yield "mamba.c_layernorm.weight", [state]
    yield from _gated("feed_forward", hidden, text["intermediate_size"])


def _granite(text: dict[str, Any], index: int) -> Iterator[tuple[str, list[int]]]:
    hidden, shared = text["hidden_size"], text["shared_intermediate_size"]
    yield "input_layernorm.weight", [hidden]
    yield "post_attention_layernorm.weight", [hidden]
    if text["layer_types"][index] == "attention":
        yield from _attention(text, "granite")
    else:
        inner, heads = text["mamba_expand"] * hidden, text["mamba_n_heads"]
        groups = 2 * text["mamba_n_groups"] * text["mamba_d_state"]
        yield "mamba.A_log", [heads]
        yield "mamba.D", [heads]
        yield "mamba.dt_bias", [heads]
        yield "mamba.norm.weight", [inner]
        yield "mamba.conv1d.weight", [inner + groups, 1, text["mamba_d_conv"]]
        yield "mamba.conv1d.bias", [inner + groups]
        yield "mamba.in_proj.weight", [2 * inner + groups + heads, hidden]
        yield "mamba.out_proj.weight", [hidden, inner]
    yield "shared_mlp.input_linear.weight", [2 * shared, hidden]
    yield "shared_mlp.output_linear.weight", [hidden, shared]


def _quantized(
    name: str, shape: list[int], quantization: dict[str, Any], dtype: str
) -> Iterator[tuple[str, Tensor]]:
    at, (rows, columns) = name.removesuffix(".weight"), shape
    method, group = quantization["quant_method"], quantization.get("group_size", 128)
    if method == "awq":
        yield f"{at}.qweight", Tensor("I32", [columns, rows // 8])
        yield f"{at}.qzeros", Tensor("I32", [columns // group, rows // 8])
        yield f"{at}.scales", Tensor("F16", [columns // group, rows])
    elif method == "gptq":
        yield f"{at}.qweight", Tensor("I32", [columns // 8, rows])
        yield f"{at}.qzeros", Tensor("I32", [columns // group, rows // 8])
        yield f"{at}.scales", Tensor("F16", [columns // group, rows])
        yield f"{at}.g_idx", Tensor("I32", [columns])
    elif method == "fp8":
        yield name, Tensor("F8_E4M3", shape)
        block = quantization.get("weight_block_size")
        scale = [-(-rows // block[0]), -(-columns // block[1])] if block else []
        yield f"{at}.weight_scale" + "_inv" * bool(block), Tensor("F32", scale)
    elif method == "compressed-tensors":
        bits = quantization["config_groups"]["group_0"]["weights"]["num_bits"]
        if bits == 8:
            yield name, Tensor("I8", shape)
            yield f"{at}.weight_scale", Tensor(dtype, [rows, 1])
        else:
            yield f"{at}.weight_packed", Tensor("I32", [rows, columns // 8])
            yield f"{at}.weight_scale", Tensor(dtype, [rows, columns // group])
            yield f"{at}.weight_shape", Tensor("I64", [2])


def write_checkpoint(directory: Path, config: dict[str, Any], *, empty: bool = False) -> Path:
    """Write a model into a directory, created if needed, and return it.

    Its weights are random, or a hole in the file if they are to be `empty`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(json.dumps(config))
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors(config):
        ends = [offset, offset := offset + tensor.size_bytes]
        header[name] = {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": ends}
    content = json.dumps(header).encode()
    content += b" " * (-len(content) % 8)
    with (directory / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(content)) + content)
        if empty:
            file.truncate(file.tell() + offset)
        else:
            source = random.Random(1)
            for name, tensor in tensors(config):
                file.write(_content(name, tensor.size_bytes, source))
    return directory


def _content(name: str, size: int, source: random.Random) -> bytes:
    # A GPTQ order names groups, and shapes are read; the rest may be small numbers of any kind.
    if name.endswith(("g_idx", "weight_shape")):
        return bytes(size)
    return source.randbytes(size).translate(_SMALL)


# No byte with which a float of any type could be infinite or no number.
_SMALL = bytes(value & 0x3B for value in range(256))
