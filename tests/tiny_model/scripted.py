"""A model that says what it is told to say, for conversations that need a certain answer.

Its weights are written by hand, and it is a Qwen2 like any other: one layer whose attention looks
for cues in the whole prompt, and an output layer that knows which token of the cue's answer comes
after the last one.
"""

from __future__ import annotations

import itertools
import re
import sysconfig
from array import array
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.tiny_model import write_configs
from tests.tiny_model.harmony import HARMONY_ENDS, HARMONY_FORMAT
from tests.tiny_model.tokenizer import write_tokenizer
from tests.tiny_model.weights import MODEL_CONFIG, write_checkpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

VOCAB_SIZE = 8192
HIDDEN = 128
_END = "<|im_end|>"
# A special token, or a word with the space before it.
_WORD = re.compile(r"<\|\w+\|>|\s?(?:(?!<\|)\S)+")
# What the score of a cue exceeds that of the one before it by. Attention multiplies what weaker
# cues and all other tokens get, however many they are, by exp(-24) each.
_CUE_STEP = 24.0
# Logits, before the norm's gain of 8: of the tokens that may follow the last one, of all tokens of
# the cue's answer, and of its first one. Each outweighs the next ones, at temperature 1 as well.
_FOLLOWS, _IN_ANSWER, _IS_FIRST = 10.0, 5.0, 2.5


def make_scripted_model(
    directory: Path, script: dict[str, str], context: int, *, harmony: bool = False
) -> Path:
    """Write a model that answers with the text of the last cue of a script that the prompt has.

    Args:
        directory: Where the files go, created if needed.
        script: Answers by cue. A word must not come twice in an answer.
        context: The most tokens of prompt and answer.
        harmony: Whether it has gpt-oss's special tokens and its kind of template. Each of the
            tokens is a word, and an answer says itself how it ends.
    """
    last = [] if harmony else [_END]
    answers = [[*_WORD.findall(text), *last] for text in script.values()]
    assert all(len(set(words)) == len(words) for words in answers), "a word comes twice"
    words = dict.fromkeys([*script, *(word for answer in answers for word in answer)])
    format_ = HARMONY_FORMAT if harmony else {}
    ordinary = tuple(word for word in words if word not in {_END, *format_.get("special", ())})
    directory.mkdir(parents=True, exist_ok=True)
    ids = write_tokenizer(
        directory, vocab_size=VOCAB_SIZE, ordinary=ordinary, texts=_english(), **format_
    )
    config = {
        **MODEL_CONFIG,
        "vocab_size": VOCAB_SIZE,
        "hidden_size": HIDDEN,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "max_position_embeddings": context,
        # The pair of dimensions that turns slowest, which attention uses, hardly turns at all.
        "rope_theta": 1e8,
    }
    write_configs(directory, config, ids, HARMONY_ENDS if harmony else (_END,))
    tensors = _tensors(ids, list(script), answers, config)
    write_checkpoint(
        directory / "model.safetensors", ((name, m.shape, m.values) for name, m in tensors.items())
    )
    return directory


def _english() -> Iterator[str]:
    """Yield text that the standard library holds: prompts of agents become short with it."""
    library = Path(sysconfig.get_path("stdlib"))
    for name in ("pydoc_data/topics.py", "subprocess.py", "argparse.py", "typing.py"):
        yield (library / name).read_text(encoding="utf-8")


class _Matrix:
    """A tensor of zeros, or of ones, whose elements can be set."""

    def __init__(self, *shape: int, fill: float = 0.0) -> None:
        self.shape = shape
        size = shape[0] * (shape[1] if len(shape) > 1 else 1)
        self.values = array("f", [fill]) * size

    def set(self, row: int, column: int, value: float) -> None:
        self.values[row * self.shape[1] + column] = value


def _tensors(
    ids: dict[str, int], cues: list[str], answers: list[list[str]], config: dict[str, Any]
) -> dict[str, _Matrix]:
    inner = config["intermediate_size"]
    # Every known word has a dimension, all other tokens share the first, and each answer has one.
    dimensions = {word: 1 + number for number, word in enumerate(ids)}
    chosen = [len(dimensions) + 1 + number for number in range(len(answers))]
    assert chosen[-1] < HIDDEN, "the script has too many words"
    layer = "model.layers.0"
    square, bias = (HIDDEN, HIDDEN), _Matrix(HIDDEN)
    embedding, output = _Matrix(VOCAB_SIZE, HIDDEN), _Matrix(VOCAB_SIZE, HIDDEN)
    query_bias, key, value, mixed = _Matrix(HIDDEN), *(_Matrix(*square) for _ in range(3))

    for token in range(VOCAB_SIZE):
        embedding.set(token, 0, 1.0)
    for word, dimension in dimensions.items():
        embedding.set(ids[word], 0, 0.0)
        embedding.set(ids[word], dimension, 1.0)

    # The norm makes one of HIDDEN elements, which is 1, its root; attention divides by it again.
    gain = HIDDEN**0.5
    query_bias.values[HIDDEN - 1] = 1.0
    for number, cue in enumerate(cues):
        key.set(HIDDEN - 1, dimensions[cue], _CUE_STEP * (number + 1))
        value.set(number, dimensions[cue], 1 / gain)
        mixed.set(chosen[number], number, 1.0)

    for number, answer in enumerate(answers):
        for word in answer:
            output.set(ids[word], chosen[number], _IN_ANSWER)
        output.set(ids[answer[0]], chosen[number], _IN_ANSWER + _IS_FIRST)
        for word, following in itertools.pairwise(answer):
            output.set(ids[following], dimensions[word], _FOLLOWS)

    return {
        "model.embed_tokens.weight": embedding,
        f"{layer}.input_layernorm.weight": _Matrix(HIDDEN, fill=1.0),
        f"{layer}.self_attn.q_proj.weight": _Matrix(*square),
        f"{layer}.self_attn.q_proj.bias": query_bias,
        f"{layer}.self_attn.k_proj.weight": key,
        f"{layer}.self_attn.k_proj.bias": bias,
        f"{layer}.self_attn.v_proj.weight": value,
        f"{layer}.self_attn.v_proj.bias": bias,
        f"{layer}.self_attn.o_proj.weight": mixed,
        f"{layer}.post_attention_layernorm.weight": _Matrix(HIDDEN, fill=1.0),
        f"{layer}.mlp.gate_proj.weight": _Matrix(inner, HIDDEN),
        f"{layer}.mlp.up_proj.weight": _Matrix(inner, HIDDEN),
        f"{layer}.mlp.down_proj.weight": _Matrix(HIDDEN, inner),
        "model.norm.weight": _Matrix(HIDDEN, fill=1.0),
        "lm_head.weight": output,
    }
