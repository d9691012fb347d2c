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
from vgate.fit.families import completed, draft_count, tied
from vgate.fit.rotary import rotary_elements

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_PACKED = frozenset({"I32", "U8", "I8", "F8_E4M3", "F8_E5M2", "F4", "F8_E4M3FNUZ"})
# vllm/model_executor/layers/vocab_parallel_embedding.py, DEFAULT_VOCAB_PADDING_SIZE
_VOCABULARY_STEP = 64
_EMBEDDING = re.compile(r"(embed_tokens|word_embeddings|wte|tok_embeddings|embeddings?)\.weight$")
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out)\.weight$|^(language_model\.)?output\.weight$")
# They are computed anew.
_UNUSED = re.compile(r"rotary_emb\.inv_freq$|\.masked_bias$|\.attn\.bias$")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
# Layers that draft tokens have names of their own, or numbers beyond the others'. They are loaded
# for speculation alone, and use the model's own embedding and last layer, whatever the files hold
# (vllm/v1/spec_decode/llm_base_proposer.py, load_model).
_DRAFT = re.compile(r"(?:^|\.)mtp(?:_\w+)?\.")
_DRAFT_NUMBER = re.compile(r"(?:^|\.)(?:mtp_)?(?:layers|block)\.(\d+)\.")
_SHARED = re.compile(r"(^|\.)(embed_tokens|shared_head\.head|lm_head)\.")
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
# GLM chooses experts in 32 bits (vllm/model_executor/models/glm4_moe.py).
_ROUTER = re.compile(r"\.mlp\.gate\.weight$")
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

    `wanted` is as in `model.dtype`. `bfloat16` is whether the GPU has that type, as those from
    compute capability 8.0 on do.
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


def drafting_layers(checkpoint: Checkpoint) -> int:
    """Return how many layers of its own a model can draft tokens with, if its files have them."""
    text = completed(checkpoint.text)
    count, layers = draft_count(checkpoint.config, text), int(text.get("num_hidden_layers") or 0)
    if not count or all(_draft_of(name, layers) is None for name in checkpoint.tensors):
        return 0
    return count


def _draft_of(name: str, layers: int) -> int | None:
    """Return the number of the drafting layer that a tensor belongs to; None if it does to none."""
    if found := _DRAFT.search(name):
        number = _DRAFT_NUMBER.search(name, found.start())
        return int(number[1]) if number else 0
    layer = _LAYER.search(name)
    if layer is None or not layers or int(layer[1]) < layers or _TOWER.search(name):
        return None
    return int(layer[1]) - layers


def loaded(
    checkpoint: Checkpoint, *, element_bytes: int, quantization: str | None, drafts: int = 0
) -> Weights:
    """Return what the weights take once they are loaded.

    Args:
        checkpoint: The model.
        element_bytes: The size of a number of the type that vLLM computes in.
        quantization: As in `model.quantization`: "bitsandbytes" makes plain weights small.
        drafts: How many of the model's own layers draft tokens; the others of them aren't loaded.
    """
    text = completed(checkpoint.text)
    method = checkpoint.config.get("quantization_config") or text.get("quantization_config") or {}
    on_load = quantization if quantization in {"bitsandbytes", "fp8"} and not method else None
    sums = {False: 0, True: 0}
    by_dtype: dict[str, int] = {}
    tensors = checkpoint.tensors
    copies = 0
    for name, tensor in _used(checkpoint, text, method, drafts):
        # Scales of groups are in the model's type, those of rows or the whole matrix in 32 bits.
        of_groups = name.endswith("weight_scale") and f"{name[: -len('_scale')]}_packed" in tensors
        wide = bool(_WIDE.search(name)) and not of_groups
        wide |= text.get("model_type") == "glm4_moe" and bool(_ROUTER.search(name))
        kind, size = _held(name, tensor, 4 if wide else element_bytes, on_load)
        sums[bool(_TOWER.search(name))] += size
        by_dtype[kind] = by_dtype.get(kind, 0) + size
        if name.endswith("kv_b_proj.weight") and text.get("kv_lora_rank") is not None:
            copies += tensor.elements * element_bytes
    tables = rotary_elements(text) * element_bytes
    return Weights(sums[False], sums[True], tables, copies, by_dtype)


def _used(
    checkpoint: Checkpoint, text: dict[str, Any], method: dict[str, Any], drafts: int
) -> Iterator[tuple[str, Tensor]]:
    config, tensors = checkpoint.config, checkpoint.tensors
    has_head = any(_HEAD.search(name) for name in tensors)
    one = has_head and tied(config, text, has_head=has_head)
    count = int(text.get("num_hidden_layers") or 0)
    gptq = method.get("quant_method") in {"gptq", "gptq_marlin"} and not method.get("desc_act")
    for name, tensor in tensors.items():
        draft = _draft_of(name, count)
        if draft is not None and (draft >= drafts or _SHARED.search(name)):
            continue
        dropped = _UNUSED.search(name) or _JOINED_SHAPE.search(name)
        if dropped or (one and _HEAD.search(name)):
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
