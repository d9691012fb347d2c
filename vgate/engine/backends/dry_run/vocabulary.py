"""The dry-run engine's vocabulary: a model's, or the built-in one.

The built-in one is the 256 bytes and a few markers. It needs no model on disk, encodes any text,
and lets the engine, which only sees token ids, answer in readable text.
"""

import json
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from vgate.engine.backends.base import BackendError
from vgate.engine.served_files import read_model_files
from vgate.wire.model_files import (
    GENERATION_CONFIG,
    TEMPLATE,
    TOKENIZER,
    TOKENIZER_CONFIG,
    ModelFiles,
)

BYTE_TOKENS = 256

END, SYSTEM, USER, ASSISTANT = range(BYTE_TOKENS, BYTE_TOKENS + 4)
MARKERS = {"<|end|>": END, "<|system|>": SYSTEM, "<|user|>": USER, "<|assistant|>": ASSISTANT}

# Tools come first, because the engine repeats the last message.
CHAT_TEMPLATE = (
    "{%- if tools -%}"
    "<|system|>Tools that can be called, each as"
    ' <tool_call>{"name": ..., "arguments": ...}</tool_call>:'
    "{%- for tool in tools -%}{{ '\\n' ~ (tool | tojson) }}{%- endfor -%}<|end|>"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "<|{{ message.role if message.role in ('system', 'assistant') else 'user' }}|>"
    "{%- if message.reasoning_content -%}"
    "<think>{{ message.reasoning_content }}</think>"
    "{%- endif -%}"
    "{{ message.content }}"
    "{%- for call in message.tool_calls or [] -%}"
    '<tool_call>{"name": {{ call.function.name | tojson }},'
    ' "arguments": {{ call.function.arguments | tojson }}}</tool_call>'
    "{%- endfor -%}"
    "<|end|>"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "<|assistant|>"
    "{%- if enable_thinking is defined and not enable_thinking -%}<think></think>{%- endif -%}"
    "{%- endif -%}"
)

# The last message is the longest of this many spans of text before the generation prompt: a
# template may put text of its own, such as a line break, between two messages.
_RECENT_SPANS = 3


class Vocabulary:
    """The vocabulary of the configured model; the built-in one if there is no tokenizer.

    Attributes:
        directory: The model's directory; None for the built-in vocabulary.
        files: What frontends make their tokenizer of.
        special: Tokens that templates put around messages.
        eos: Tokens that end an output.
        end: The one of them that the dry-run engine ends its output with.
        size: Token ids are below it.
        harmony: Whether answers have gpt-oss's format.
        labels: The classes that the model's config.json names; one if it names none.
    """

    def __init__(self, model_id: str) -> None:
        found = Path(model_id, TOKENIZER).is_file()
        self.directory = directory = Path(model_id).resolve() if found else None
        self.labels: list[str | None] = ["LABEL_0"] if directory is None else _labels(directory)
        if directory is None:
            self.files = built_in_files()
            self.special = frozenset(MARKERS.values())
            self.eos = frozenset({END})
            self.end = END
            self.size = max(self.special) + 1
            self.harmony = False
            return
        self.files = read_model_files(directory)
        try:
            document = json.loads(self.files.contents[TOKENIZER])
            added = document["added_tokens"]
            self.special = frozenset(token["id"] for token in added if token["special"])
            self.harmony = {"<|channel|>", "<|message|>"} <= {
                token.get("content") for token in added
            }
            self.eos = _eos_token_ids(directory) or self.special
            own = _own_end(self.files, added)
            # An embedding model may have none and needs none.
            self.end = own if own in self.eos else min(self.eos, default=0)
            tokens = (document.get("model") or {}).get("vocab") or ()
            self.size = max(len(tokens), *(token["id"] + 1 for token in added), 1)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BackendError(f"cannot read the tokenizer in {directory}: {error}") from error

    def last_message(self, prompt: list[int]) -> list[int]:
        """Return the tokens of the conversation's last message."""
        borders = [-1, *(i for i, t in enumerate(prompt) if t in self.special), len(prompt)]
        spans = [prompt[a + 1 : b] for a, b in pairwise(borders)]
        before_generation_prompt = spans[-1 - _RECENT_SPANS : -1] or spans
        return max(before_generation_prompt, key=len) or prompt

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text."""
        if self.directory is None:
            return list(text.encode())
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens."""
        if self.directory is None:
            plain = bytes(token for token in tokens if token < BYTE_TOKENS)
            return plain.decode(errors="replace")
        text: str = self._tokenizer.decode(tokens)
        return text

    @cached_property
    def _tokenizer(self) -> Any:
        """The tokenizer, loaded at first use: only structured output and scripts need it."""
        from tokenizers import Tokenizer

        return Tokenizer.from_buffer(self.files.contents[TOKENIZER])


def built_in_files() -> ModelFiles:
    """Return the files that describe the built-in vocabulary as if it were a model's."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(BYTE_TOKENS)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": text, **flags, "special": True}
            for text, number in MARKERS.items()
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": True},
    }
    contents = {TOKENIZER: json.dumps(tokenizer).encode(), TEMPLATE: CHAT_TEMPLATE.encode()}
    return ModelFiles("(dry run)", contents)


def _own_end(files: ModelFiles, added: list[Any]) -> int | None:
    """Return the tokenizer's own end-of-text token, or None."""
    end = json.loads(files.contents.get(TOKENIZER_CONFIG, b"{}")).get("eos_token")
    text = end.get("content") if isinstance(end, dict) else end
    return next((token["id"] for token in added if token.get("content") == text), None)


def _eos_token_ids(directory: Path) -> frozenset[int]:
    for name in (GENERATION_CONFIG, "config.json"):
        path = directory / name
        if path.is_file():
            eos = json.loads(path.read_bytes()).get("eos_token_id")
            if eos is not None:
                return frozenset(eos if isinstance(eos, list) else [eos])
    return frozenset()


def _labels(directory: Path) -> list[str | None]:
    path = directory / "config.json"
    named = json.loads(path.read_bytes()).get("id2label") if path.is_file() else None
    return list(named.values()) if isinstance(named, dict) and named else ["LABEL_0"]
