"""Reads a tokenizer.json with little memory.

`Tokenizer.from_buffer` keeps the whole document as a tree while it builds the model: 125 MiB for
150,000 tokens, of which 47 remain. A BPE, the usual model, is built from its parts instead: 53 MiB,
of which 38 remain. Anything unusual is left to `from_buffer`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from tokenizers import AddedToken, Tokenizer, models

_NO_MODEL = msgspec.Raw(b'{"type":"BPE","vocab":{},"merges":[]}')
_NO_TOKENS = msgspec.Raw(b"[]")
# Two tokens, or in older files one text with a space between them.
_decode_merge = msgspec.json.Decoder(tuple[str, str] | str).decode


class _UnusualError(Exception):
    """Only `from_buffer` can read this file."""


class _Bpe(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag="BPE"):
    """A BPE as files describe it."""

    vocab: dict[str, int]
    merges: msgspec.Raw
    dropout: float | None = None
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False
    ignore_merges: bool = False

    def take_merges(self) -> _Merges:
        """Return the merges, detached from the document."""
        raw, self.merges = bytes(self.merges), msgspec.Raw()
        return _Merges(raw, self.vocab)

    @property
    def options(self) -> dict[str, Any]:
        """The constructor's arguments after vocabulary and merges."""
        names = self.__struct_fields__[2:]
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class _Merges(Sequence[tuple[str, str]]):
    """Merges that are decoded as they are read, which is possible once.

    Args:
        raw: The list as JSON.
        vocabulary: Emptied when reading begins: the constructor has copied it by then.
    """

    def __init__(self, raw: bytes, vocabulary: dict[str, int]) -> None:
        self._raw = raw
        self._vocabulary = vocabulary

    def __len__(self) -> int:
        # The constructor only reserves memory by it, and most tokens come from a merge.
        return len(self._vocabulary)

    def __getitem__(self, index: Any) -> Any:
        raise IndexError(index)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        self._vocabulary.clear()
        raws = msgspec.json.decode(self._raw, type=list[msgspec.Raw])
        self._raw = b""
        raws.reverse()
        while raws:
            merge = _decode_merge(raws.pop())
            if isinstance(merge, str):
                left, _, right = merge.partition(" ")
                if not right or " " in right:
                    message = f"a merge must be two tokens, got {merge!r}"
                    raise ValueError(message)
                merge = left, right
            yield merge


def read_tokenizer(document: bytes) -> Tokenizer:
    """Return the tokenizer of a file.

    Args:
        document: The file. Pass the only reference to it: it is freed before memory use peaks.

    Raises:
        Exception: The file is not valid; the library raises no narrower type.
    """
    try:
        parts = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
        model = msgspec.json.decode(parts["model"], type=_Bpe)
        added = msgspec.json.decode(parts["added_tokens"], type=list[dict[str, Any]])
        tokens = _added_tokens(added, model.vocab)
        merges = model.take_merges()
    except (msgspec.MsgspecError, KeyError, TypeError, _UnusualError):
        # If the file is broken, this explains how.
        return Tokenizer.from_buffer(document)
    parts |= {"model": _NO_MODEL, "added_tokens": _NO_TOKENS}
    rest = msgspec.json.encode(parts).decode()
    del document, parts
    tokenizer = Tokenizer.from_str(rest)
    tokenizer.model = models.BPE(model.vocab, merges, **model.options)
    tokenizer.add_tokens(tokens)
    ids = {
        token_id: token.content for token_id, token in tokenizer.get_added_tokens_decoder().items()
    }
    if ids != {entry["id"]: entry["content"] for entry in added}:
        message = "the ids of its added tokens are not those that tokenizers gives them"
        raise ValueError(message)
    return tokenizer


def _added_tokens(entries: list[dict[str, Any]], vocabulary: dict[str, int]) -> list[AddedToken]:
    """Return the added tokens of a file.

    Raises:
        _UnusualError: Added one by one, they would get other ids than the file gives them.
    """
    tokens = []
    next_id = len(vocabulary)
    for entry in entries:
        if entry["id"] != vocabulary.get(entry["content"], next_id):
            raise _UnusualError
        next_id = max(next_id, entry["id"] + 1)
        tokens.append(AddedToken(**{name: entry[name] for name in entry if name != "id"}))
    return tokens
