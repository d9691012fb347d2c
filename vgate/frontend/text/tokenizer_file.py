"""Reads a tokenizer's file without several copies of a large vocabulary at once.

`Tokenizer.from_file` holds the whole document as a tree before it makes a model of it: 120 MB for
150,000 tokens, of which 50 stay. The usual model, a BPE, can be made of its parts instead, and the
rest of the file is read as ever. What is unusual is left to `from_file`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import AddedToken, Tokenizer, models

_STRING = rb'"[^"\\]*(?:\\.[^"\\]*)*"'
# A merge and what follows it: two tokens, or in older files one text with a space between them.
_PAIR = re.compile(rb"\s*\[\s*(%b)\s*,\s*(%b)\s*\]\s*[,\]]\s*" % (_STRING, _STRING))
_JOINED = re.compile(rb"\s*(%b)\s*[,\]]\s*" % _STRING)
_STUB = msgspec.Raw(b'{"type":"BPE","vocab":{},"merges":[]}')
_decode_text = msgspec.json.Decoder(str).decode


class _UnusualError(Exception):
    """The file has something that only `from_file` knows."""


class _Model(msgspec.Struct, forbid_unknown_fields=True):
    """A BPE as files have it."""

    type: str
    vocab: msgspec.Raw
    merges: msgspec.Raw
    dropout: float | None = None
    unk_token: str | None = None
    continuing_subword_prefix: str | None = None
    end_of_word_suffix: str | None = None
    fuse_unk: bool = False
    byte_fallback: bool = False
    ignore_merges: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """What the model's constructor takes beside vocabulary and merges."""
        names = self.__struct_fields__[3:]
        return {name: value for name in names if (value := getattr(self, name)) is not None}


class _AddedToken(msgspec.Struct, forbid_unknown_fields=True):
    """An added token as files have it."""

    id: int
    content: str
    single_word: bool
    lstrip: bool
    rstrip: bool
    normalized: bool
    special: bool

    def made(self) -> AddedToken:
        """Return it as the tokenizer knows it."""
        fields = msgspec.structs.asdict(self)
        del fields["id"]
        return AddedToken(**fields)


class _Merges(Sequence[tuple[str, str]]):
    """Merges that are decoded one by one as they are read, and can be read once.

    Args:
        raw: The list as JSON.
        vocabulary: Read before the first merge; it is emptied then.
    """

    def __init__(self, raw: bytes, vocabulary: dict[str, int]) -> None:
        start = raw.index(b"[") + 1
        self._raw = raw
        self._start = start
        self._pattern = _PAIR if raw[start : start + 64].lstrip()[:1] == b"[" else _JOINED
        self._vocabulary = vocabulary
        # Where nothing is left to read.
        self._count = 0 if not raw[start:].strip(b" \t\r\n]") else self._counted()

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        raise IndexError(index)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        self._vocabulary.clear()
        if not self._count:
            return
        for found in self._pattern.finditer(self._raw, self._start):
            if self._pattern is _PAIR:
                yield _decode_text(found[1]), _decode_text(found[2])
            else:
                left, space, right = _decode_text(found[1]).partition(" ")
                if not space or " " in right:
                    raise _UnusualError
                yield left, right
        # The model is made once they are read, which takes most.
        self._raw = b""

    def _counted(self) -> int:
        """Return how many there are, each directly behind the other and nothing after them."""
        count, place = 0, self._start
        for found in self._pattern.finditer(self._raw, self._start):
            if found.start() != place:
                raise _UnusualError
            count, place = count + 1, found.end()
        if place != len(self._raw):
            raise _UnusualError
        return count


def read_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer of a file.

    Raises:
        Exception: Whatever `Tokenizer.from_file` raises.
    """
    try:
        return _in_parts(path)
    except Exception:  # noqa: BLE001 - tokenizers raises no other type
        # If it can't be read at all, this says why.
        return Tokenizer.from_file(str(path))


def _in_parts(path: Path) -> Tokenizer:
    document = path.read_bytes()
    parts = msgspec.json.decode(document, type=dict[str, msgspec.Raw])
    model = msgspec.json.decode(parts["model"], type=_Model)
    added = msgspec.json.decode(parts["added_tokens"], type=list[_AddedToken])
    if model.type != "BPE":
        raise _UnusualError
    vocabulary = msgspec.json.decode(model.vocab, type=dict[str, int])
    merges = _Merges(bytes(model.merges), vocabulary)
    options = model.options
    parts |= {"model": _STUB, "added_tokens": msgspec.Raw(b"[]")}
    rest = msgspec.json.encode(parts).decode()
    # The document is no longer needed, and is as large as what comes.
    del document, parts, model
    tokenizer = Tokenizer.from_str(rest)
    size = len(vocabulary)
    tokenizer.model = models.BPE(vocabulary, merges, **options)
    for special, tokens in groupby(added, lambda token: token.special):
        add = tokenizer.add_special_tokens if special else tokenizer.add_tokens
        add([token.made() for token in tokens])
    ids = {token.id: token.content for token in added}
    found = tokenizer.get_added_tokens_decoder()
    if tokenizer.get_vocab_size(with_added_tokens=False) != size or ids != {
        number: token.content for number, token in found.items()
    }:
        raise _UnusualError
    return tokenizer
