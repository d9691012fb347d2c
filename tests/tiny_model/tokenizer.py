"""The tokenizer: byte-level BPE with Qwen2's pre-tokenizer, trained on a fixed text."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import TYPE_CHECKING

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer

from tests.tiny_model.corpus import training_texts

if TYPE_CHECKING:
    from collections.abc import Iterable

THINKING_TOKENS = ("<think>", "</think>")
SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")

# Qwen2's own split pattern, as in its published tokenizer.json. It has to be this one, and the
# normalizer has to be NFC: transformers 5 ignores what the file says for model type qwen2 and
# builds these two itself, so with any other choice an engine's ids would differ from the file's.
_SPLIT_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
    r"|[^\r\n\p{L}\p{N}]?\p{L}+"
    r"|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
_CHAT_TEMPLATE = Path(__file__).with_name("chat_template.jinja")
# As Qwen3's template ends where a request asks it not to think.
_CLOSED_THINKING = (
    "{%- if add_generation_prompt and enable_thinking is defined and not enable_thinking -%}"
    '{{- "<think>\\n\\n</think>\\n\\n" -}}'
    "{%- endif -%}"
)


def write_tokenizer(
    directory: Path,
    *,
    vocab_size: int,
    thinking: bool = False,
    ordinary: tuple[str, ...] = (),
    texts: Iterable[str] = (),
    special: tuple[str, ...] = SPECIAL_TOKENS,
    end: str = "<|im_end|>",
    template: str | None = None,
) -> dict[str, int]:
    """Write tokenizer.json and tokenizer_config.json; return the added tokens' ids.

    Args:
        directory: Where the files go.
        vocab_size: All tokens.
        thinking: The vocabulary and the template of a model that thinks.
        ordinary: Further tokens that are no special ones.
        texts: What the tokenizer is trained on besides the fixed text.
        special: The special tokens.
        end: The one of them that ends an answer.
        template: The chat template; None for the one beside this file.
    """
    if thinking:
        ordinary += THINKING_TOKENS
    tokenizer = train_tokenizer(vocab_size, ordinary, texts, special)
    template = template or _CHAT_TEMPLATE.read_text(encoding="utf-8")
    if thinking:
        template = f"{template.rstrip()}{_CLOSED_THINKING}\n"
    tokenizer.save(str(directory / "tokenizer.json"))
    special_ids = {token: _id_of(tokenizer, token) for token in special}
    ordinary_ids = {token: _id_of(tokenizer, token) for token in ordinary}
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "add_bos_token": False,
        "add_prefix_space": False,
        "bos_token": None,
        "eos_token": end,
        "pad_token": "<|endoftext|>",
        "unk_token": None,
        "additional_special_tokens": [token for token in special if token != "<|endoftext|>"],
        "added_tokens_decoder": {
            str(token_id): {
                "content": token,
                "lstrip": False,
                "normalized": False,
                "rstrip": False,
                "single_word": False,
                "special": token in special_ids,
            }
            for token, token_id in {**special_ids, **ordinary_ids}.items()
        },
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 4096,
        "split_special_tokens": False,
        "chat_template": template,
    }
    text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
    (directory / "tokenizer_config.json").write_text(text, encoding="utf-8")
    return special_ids | ordinary_ids


def train_tokenizer(
    vocab_size: int,
    ordinary: tuple[str, ...] = (),
    texts: Iterable[str] = (),
    special: tuple[str, ...] = SPECIAL_TOKENS,
) -> Tokenizer:
    """Train a tokenizer of `vocab_size` tokens, the special ones last as in Qwen2.

    Args:
        vocab_size: All tokens.
        ordinary: Further tokens, after the special ones.
        texts: What to train on besides the fixed text.
        special: The special tokens.
    """
    tokenizer = Tokenizer(BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_SPLIT_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(special) - len(ordinary),
        # All 256 bytes are tokens, seen in training or not: any text can be encoded.
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(itertools.chain(training_texts(), texts), trainer)
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for token in special]
    )
    learnt = [token for token in ordinary if tokenizer.token_to_id(token) is not None]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in ordinary])
    if tokenizer.get_vocab_size() != vocab_size - len(learnt):
        message = f"the text gave {tokenizer.get_vocab_size()} tokens, wanted {vocab_size}"
        raise RuntimeError(message)
    return tokenizer


def _id_of(tokenizer: Tokenizer, token: str) -> int:
    token_id = tokenizer.token_to_id(token)
    if token_id is None:
        raise RuntimeError(f"{token} is not in the vocabulary")
    return token_id
