"""What a model's weights take once vLLM has loaded them.

Files may hold more: a last layer that is the embedding, layers for speculation, buffers. And less:
vLLM pads vocabularies, keeps the tables of rotary embeddings, and for latent attention a second
form of a matrix. Packed formats (AWQ, GPTQ, FP8, compressed-tensors) keep their bytes, because
Marlin's kernels only reorder them.
"""

import re
from collections.abc import Iterator
from typing import Any

import msgspec

from vgate.fit.checkpoint import Checkpoint, Tensor
from vgate.fit.families import completed, tied
from vgate.fit.rotary import rotary_elements

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_PACKED = frozenset({"I32", "U8", "I8", "F8_E4M3", "F8_E5M2", "F4", "F8_E4M3FNUZ"})
# vllm/model_executor/layers/vocab_parallel_embedding.py, DEFAULT_VOCAB_PADDING_SIZE
_VOCABULARY_STEP = 64
_EMBEDDING = re.compile(r"(embed_tokens|word_embeddings|wte|tok_embeddings|embeddings?)\.weight$")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$|^(language_model\.)?output\.weight$")
# Layers that only draft tokens are loaded for speculation alone; others are computed anew.
_UNUSED = re.compile(r"(^|\.)mtp\.|rotary_emb\.inv_freq$|\.masked_bias$|\.attn\.bias$")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
# What reads images and sound, by the prefixes of the models' files.
_TOWER = re.compile(
    r"(^|\.)(vision|visual|vision_tower|vision_model|audio_tower|audio_model|multi_modal_projector"
    r"|mm_projector|embed_vision|embed_audio|vision_embed_tokens|img_processor)[._]"
)
# Numbers that vLLM keeps in 32 bits whatever the model's type.
_WIDE = re.compile(
    r"\.A_log$|\.mamba\.A$|\.mixer\.A$|e_score_correction_bias$|weight_scale(_inv|_2)?$"
    r"|input_scale$|activation_scale$"
)
# One for all matrices that vLLM joins.
_JOINED_SHAPE = re.compile(r"\.(k|v|up)_proj\.weight_shape$")
# Only for GPTQ with activation order (vllm/.../quantization/gptq_marlin.py).
_ORDER, _ZEROS = re.compile(r"\.g_idx$"), re.compile(r"\.qzeros$")
_MATRIX_DIMENSIONS = 2
# bitsandbytes: NF4 in blocks of 64 with a scale of 8 bits, whose own scale of 32 bits is for 256.
_NF4_BYTES = 1 / 2 + 1 / 64 + 4 / (64 * 256)


class Weights(msgspec.Struct, frozen=True):
    """Bytes that a loaded model takes.

    Attributes:
        parameters: The language model's weights.
        tower: Those that read images and sound.
        tables: Of rotary embeddings.
        copies: Second forms of matrices.
        by_dtype: The parameters and the tower by the type that they are stored in.
    """

    parameters: int
    tower: int
    tables: int
    copies: int
    by_dtype: dict[str, int]

    @property
    def total(self) -> int:
        """All of them: what vLLM logs as "Model loading took"."""
        return self.parameters + self.tower + self.tables + self.copies


def model_dtype(checkpoint: Checkpoint, wanted: str = "auto", *, bfloat16: bool = True) -> str:
    """Return the type that vLLM computes a model in: "float16", "bfloat16" or "float32".

    Args:
        checkpoint: The model.
        wanted: As in `model.dtype`.
        bfloat16: Whether the GPU has it; from compute capability 8.0 on.
    """
    if wanted != "auto":
        return wanted
    text, config = checkpoint.text, checkpoint.config
    named = next(
        (
            str(part[key]).removeprefix("torch.")
            for part in (config, text)
            for key in ("dtype", "torch_dtype")
            if part.get(key) not in {None, "auto"}
        ),
        "",
    )
    if not named:
        kinds = {tensor.dtype for tensor in checkpoint.tensors.values()}
        named = "bfloat16" if "BF16" in kinds else "float16" if "F16" in kinds else "float32"
    if named == "float32":
        named = "bfloat16"
    return named if bfloat16 or named != "bfloat16" else "float16"


def loaded(checkpoint: Checkpoint, *, element_bytes: int, quantization: str | None) -> Weights:
    """Return what the weights take once they are loaded.

    Args:
        checkpoint: The model.
        element_bytes: The size of a number of the type that vLLM computes in.
        quantization: As in `model.quantization`: "bitsandbytes" makes plain weights small.
    """
    config, text = checkpoint.config, completed(checkpoint.text)
    method = checkpoint.config.get("quantization_config") or text.get("quantization_config") or {}
    on_load = quantization if quantization in {"bitsandbytes", "fp8"} and not method else None
    sums = {False: 0, True: 0}
    by_dtype: dict[str, int] = {}
    tensors = checkpoint.tensors
    for name, tensor in _used(checkpoint, config, text, method):
        # Scales of groups are in the model's type, those of rows or the whole matrix in 32 bits.
        of_groups = name.endswith("weight_scale") and f"{name[: -len('_scale')]}_packed" in tensors
        wide = bool(_WIDE.search(name)) and not of_groups
        kind, size = _held(name, tensor, 4 if wide else element_bytes, on_load)
        sums[bool(_TOWER.search(name))] += size
        by_dtype[kind] = by_dtype.get(kind, 0) + size
    copies = sum(
        tensor.elements * element_bytes
        for name, tensor in tensors.items()
        if name.endswith("kv_b_proj.weight") and text.get("kv_lora_rank") is not None
    )
    tables = rotary_elements(text) * element_bytes
    return Weights(sums[False], sums[True], tables, copies, by_dtype)


def _used(
    checkpoint: Checkpoint, config: dict[str, Any], text: dict[str, Any], method: dict[str, Any]
) -> Iterator[tuple[str, Tensor]]:
    tensors = checkpoint.tensors
    has_head = any(_HEAD.search(name) for name in tensors)
    one = has_head and tied(config, text, has_head=has_head)
    count = int(text.get("num_hidden_layers") or 0)
    gptq = method.get("quant_method") in {"gptq", "gptq_marlin"} and not method.get("desc_act")
    for name, tensor in tensors.items():
        layer = _LAYER.search(name)
        speculative = layer and count and int(layer[1]) >= count and not _TOWER.search(name)
        dropped = _UNUSED.search(name) or _JOINED_SHAPE.search(name)
        if dropped or speculative or (one and _HEAD.search(name)):
            continue
        if gptq and (_ORDER.search(name) or (method.get("sym", True) and _ZEROS.search(name))):
            continue
        yield name, tensor


def _held(name: str, tensor: Tensor, element_bytes: int, on_load: str | None) -> tuple[str, int]:
    """Return the type in which a tensor is held, and its bytes."""
    if tensor.dtype in _PACKED or tensor.dtype not in _FLOATS:
        return tensor.dtype, tensor.size_bytes
    elements = tensor.elements
    matrix = len(tensor.shape) == _MATRIX_DIMENSIONS
    vocabulary = matrix and (_HEAD.search(name) or _EMBEDDING.search(name))
    if vocabulary and not _TOWER.search(name):
        rows, width = tensor.shape
        elements = -(-rows // _VOCABULARY_STEP) * _VOCABULARY_STEP * width
    elif on_load and matrix and name.endswith("proj.weight"):
        if on_load == "fp8":
            return "F8_E4M3", elements
        return "NF4", round(elements * _NF4_BYTES)
    return ("F32" if element_bytes > 2 else "16 bit"), elements * element_bytes
