"""Reads a tokenizer.json with little memory.

`Tokenizer.from_buffer` keeps the document as a tree while it builds the model: 125 MiB for 150,000
tokens, of which 47 remain. A BPE, the usual model, is built from its parts here: 47 MiB, of which
33 remain. `from_buffer` reads everything unusual.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
from tokenizers import AddedToken, Tokenizer, models

_NO_MODEL = msgspec.Raw(b'{"type":"BPE","vocab":{},"merges":[]}')
_NO_TOKENS = msgspec.Raw(b"[]")
# Each two tokens; in older files one text with a space between them.
_decode_merges = msgspec.json.Decoder(list[tuple[str, str] | str]).decode
# How many bytes of merges are decoded at once; as objects they take ten times as much.
_PIECE_BYTES = 16_384
# What is between two merges, or inside a token.
_BETWEEN = re.compile(rb"]\s*,")
_BETWEEN_TEXTS = re.compile(rb'"\s*,')
_TEXTS = re.compile(rb'\[\s*"')


class _UnusualError(Exception):
    """Only `from_buffer` can read this file."""


class _Bpe(msgspec.Struct, forbid_unknown_fields=True, tag_field="type", tag="BPE"):
    """A BPE as files describe it. The fields from `dropout` on are the constructor's options."""

    vocab: dict[str, int]
    merges: msgspec.Raw
    dropout: float | None = None
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False
    ignore_merges: bool = False


class _Merges(Sequence[tuple[str, str]]):
    """Merges that can be iterated once, decoded a few at a time from their JSON list.

    `vocabulary` is cleared when the iteration starts: the BPE's constructor has copied it by then.
    """

    def __init__(self, raw: bytes, vocabulary: dict[str, int]) -> None:
        self._raw = raw
        self._vocabulary = vocabulary

    def __len__(self) -> int:
        # The constructor only reserves memory for it, and most tokens come from a merge.
        return len(self._vocabulary)

    def __getitem__(self, index: Any) -> Any:
        raise IndexError(index)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        self._vocabulary.clear()
        raw, self._raw = self._raw, b""
        between = _BETWEEN_TEXTS if _TEXTS.match(raw) else _BETWEEN
        start = raw.find(b"[") + 1
        while start < len(raw):
            start, merges = _decoded_piece(raw, start, between)
            for merge in merges:
                yield _split(merge) if isinstance(merge, str) else merge


def _decoded_piece(
    raw: bytes, start: int, between: re.Pattern[bytes]
) -> tuple[int, list[tuple[str, str] | str]]:
    """Return where the piece of about `_PIECE_BYTES` from a place on ends, and its merges."""
    at = start + _PIECE_BYTES
    while match := between.search(raw, at):
        end = match.end()
        try:
            return end, _decode_merges(b"[%b]" % raw[start : match.start() + 1])
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError:  # it is inside a token, whose text has no end then
            at = end + (end - start)  # further, so that a long token isn't read over and over
    return len(raw), _decode_merges(b"[" + raw[start:])


def _split(merge: str) -> tuple[str, str]:
    left, _, right = merge.partition(" ")
    if not right or " " in right:
        raise ValueError(f"a merge must be two tokens, got {merge!r}")
    return left, right


def read_tokenizer(document: bytes) -> Tokenizer:
    """Return the tokenizer of a tokenizer.json.

    Pass the only reference to the document: it is freed before memory use peaks.

    Raises:
        Exception: The file is not valid; the library raises no narrower type.
    """
    try:
        parts = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
        model = msgspec.json.decode(parts["model"], type=_Bpe)
        added = msgspec.json.decode(parts["added_tokens"], type=list[dict[str, Any]])
        tokens = _added_tokens(added, model.vocab)
        merges = _Merges(bytes(model.merges), model.vocab)
        model.merges = _NO_TOKENS  # it would keep the document
    except (msgspec.MsgspecError, KeyError, TypeError, _UnusualError):
        # If the file is broken, its error says how.
        return Tokenizer.from_buffer(document)
    parts |= {"model": _NO_MODEL, "added_tokens": _NO_TOKENS}
    rest = msgspec.json.encode(parts).decode()
    del document, parts
    tokenizer = Tokenizer.from_str(rest)
    options = {name: getattr(model, name) for name in model.__struct_fields__[2:]}
    given = {name: value for name, value in options.items() if value is not None}
    tokenizer.model = models.BPE(model.vocab, merges, **given)
    tokenizer.add_tokens(tokens)
    ids = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
    if ids != {entry["id"]: entry["content"] for entry in added}:
        raise ValueError("the ids of its added tokens are not those that tokenizers gives them")
    return tokenizer


def _added_tokens(entries: list[dict[str, Any]], vocabulary: dict[str, int]) -> list[AddedToken]:
    """Return the added tokens of a file.

    Raises:
        _UnusualError: Added one by one, they would not get the ids in the file.
    """
    tokens = []
    next_id = len(vocabulary)
    for entry in entries:
        if entry["id"] != vocabulary.get(entry["content"], next_id):
            raise _UnusualError
        next_id = max(next_id, entry["id"] + 1)
        tokens.append(AddedToken(**{name: entry[name] for name in entry if name != "id"}))
    return tokens
