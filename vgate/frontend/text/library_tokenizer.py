"""The `Tokenizer` of a tokenizer.json, by Hugging Face's tokenizers library."""

import re
from collections.abc import Iterator
from functools import cached_property, partial
from typing import Any

import tokenizers
from msgspec.structs import replace
from tokenizers import models
from tokenizers.decoders import ByteLevel, DecodeStream

from vgate.errors import InvalidValueError
from vgate.frontend.text.pairs import PairTemplate, first_tokens, pair_template
from vgate.frontend.text.piece_encoder import SHIELD, PieceEncoder
from vgate.frontend.text.slices import SLICE_CHARS
from vgate.frontend.text.tokenizer import DecodeStep, TokenLimit, TooManyTokensError
from vgate.frontend.text.word_encoder import BYTE_OF, parts_of

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"  # how SentencePiece writes a space
# DecodeStream raises this when bytes that were a character turn out not to be one
# (https://github.com/vllm-project/vllm/issues/17448); vLLM starts a new stream then.
_INVALID_PREFIX = "Invalid prefix encountered"
# The most characters that normalization makes one of: U+1D400 with two marks, and the like.
_CHARS_PER_NORMALIZED = 4


class LibraryTokenizer:
    """Implements `vgate.frontend.text.tokenizer.Tokenizer`.

    Args:
        library: The library's tokenizer. Its truncation and padding, which are for training, are
            switched off.
    """

    def __init__(self, library: tokenizers.Tokenizer) -> None:
        library.no_truncation()
        library.no_padding()
        pieces = PieceEncoder(library)
        decoder = library.decoder
        self.library = library
        # Other decoders may join tokens or change their spaces.
        self.byte_level = isinstance(decoder, ByteLevel)
        self.vocab_size: int = library.get_vocab_size(with_added_tokens=True)
        self.encode, self.encode_within = pieces.encode, pieces.encode_within
        self.shielded = pieces.shielded
        self.decode = library.decode
        self.id_to_token, self.token_to_id = library.id_to_token, library.token_to_id
        self._around = _added_around(library)
        self._added = library.get_added_tokens_decoder()
        # Also inside a sequence of decoders.
        self._spells_bytes = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()

    @cached_property
    def pair(self) -> PairTemplate:
        """The special tokens that are added to a pair of texts."""
        return pair_template(self.library)

    def first_tokens(self, text: str, tokens: int) -> str:
        """Return the start of a text that has at most so many tokens."""
        return first_tokens(self.library, text, tokens)

    @cached_property
    def _chars_per_token(self) -> int:
        # Takes some 50 ms, and few texts are so long that it matters.
        return most_chars_per_token(self.library)

    def least_tokens(self, text: str) -> int:
        """Return a number of tokens that a text surely has, without tokenising it."""
        chars = self._chars_per_token
        if chars and not text.isascii():
            chars *= _CHARS_PER_NORMALIZED
        return -(-len(text) // chars) if chars else 0

    def encode_batch(
        self, texts: list[str], *, special: bool, limit: TokenLimit | None = None
    ) -> list[list[int]]:
        """Tokenise texts."""
        before, after = self._around if special else ([], [])
        added = len(before) + len(after)
        if limit is not None and limit.keep <= added and not limit.refuses:
            raise InvalidValueError(
                f"`truncate_prompt_tokens` must be more than the {added} special tokens, "
                f"got {limit.keep}",
                param="truncate_prompt_tokens",
            )
        within = None if limit is None else replace(limit, keep=limit.keep - added)
        found: list[list[int]] = []
        for group in _groups(texts):
            if len(group[0]) > SLICE_CHARS or (len(group) == 1 and SHIELD in group[0]):
                try:
                    ids = [self.encode(group[0], within, None)]
                except TooManyTokensError as error:
                    error.index = len(found) if len(texts) > 1 else None
                    raise
            else:
                # It computes no offsets, as in `PieceEncoder`.
                encodings = self.library.encode_batch_fast(group, add_special_tokens=False)
                ids = [encoding.ids for encoding in encodings]
            if within is not None and not within.refuses:
                ids = [within.cut(tokens) for tokens in ids]
            found += [[*before, *tokens, *after] for tokens in ids] if added else ids
        return found

    def decode_stream(
        self, prompt: list[int] | None = None, *, skip_special_tokens: bool = True
    ) -> DecodeStep:
        """Return a function that decodes a sequence token by token."""
        stream = DecodeStream(ids=prompt, skip_special_tokens=skip_special_tokens)
        return partial(stream.step, self.library)

    def decode_many(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        """Return the text of tokens."""
        # It lets other threads run, unlike `decode`: 80 ms for 500,000 tokens.
        (text,) = self.library.decode_batch([ids], skip_special_tokens=skip_special_tokens)
        return str(text)

    def lost_track(self, error: Exception) -> bool:
        """Whether a stream failed because text that it had returned became invalid."""
        return str(error).startswith(_INVALID_PREFIX)

    def bytes_of(self, token_id: int) -> bytes:
        """Return a token's bytes; b"" for an unknown id."""
        if (added := self._added.get(token_id)) is not None:
            return bytes(added.content.encode())
        token = self.id_to_token(token_id)
        if token is None:
            return b""
        if self._spells_bytes:
            try:
                return bytes(BYTE_OF[char] for char in token)
            except KeyError:
                return token.encode()
        if match := _BYTE_TOKEN.fullmatch(token):
            return bytes([int(match[1], 16)])
        return token.replace(_SPACE, " ").encode()


def _added_around(library: tokenizers.Tokenizer) -> tuple[list[int], list[int]]:
    """Return the special tokens that are added before and after any text."""
    ids: list[int] = []
    for text in ("a", "1", " "):
        with_added, plain = (
            library.encode_batch([text], add_special_tokens=special)[0].ids
            for special in (True, False)
        )
        if plain:
            starts = range(len(with_added) - len(plain) + 1)
            start = next(at for at in starts if with_added[at : at + len(plain)] == plain)
            return with_added[:start], with_added[start + len(plain) :]
        ids = with_added
    return ids, []


def _groups(texts: list[str]) -> Iterator[list[str]]:
    """Return texts in groups of about `SLICE_CHARS`; a longer text is alone."""
    group: list[str] = []
    chars = 0
    for text in texts:
        if group and chars + len(text) > SLICE_CHARS:
            yield group
            group, chars = [], 0
        group.append(text)
        chars += len(text)
    if group:
        yield group


def most_chars_per_token(library: tokenizers.Tokenizer) -> int:
    """Return the most characters of a normalised text that a token stands for; 0 if any number.

    There is a most where each character is in a token: no step drops any, and any character can be
    spelt in bytes.
    """
    model = library.model
    if not isinstance(model, models.BPE):
        return 0
    steps = [*parts_of(library.normalizer), *parts_of(library.pre_tokenizer)]
    byte_level = any(step["type"] == "ByteLevel" for step in steps)
    spellings = list(BYTE_OF) if byte_level else [f"<0x{byte:02X}>" for byte in range(256)]
    spelt = (byte_level or model.byte_fallback) and None not in map(library.token_to_id, spellings)
    added = library.get_added_tokens_decoder().values()
    strips = any(token.lstrip or token.rstrip for token in added)
    if strips or not spelt or not all(map(_keeps_all, steps)):
        return 0
    # Unlike `get_vocab`, this lets other threads run.
    size = library.get_vocab_size(with_added_tokens=True)
    tokens = [token for token in map(library.id_to_token, range(size)) if token is not None]
    # With gaps between the ids there would be more tokens.
    return max(map(len, tokens)) if len(tokens) == size else 0


def _keeps_all(step: dict[str, Any]) -> bool:
    """Whether a step of a normaliser or a pre-tokenizer leaves no character out."""
    if step["type"] == "Replace":
        replaced = step["pattern"].get("String")
        return replaced is not None and len(replaced) <= len(step["content"])
    if step["type"] in {"Split", "Punctuation"}:
        return str(step["behavior"]) != "Removed"
    return step["type"] in {"ByteLevel", "Digits", "Metaspace", "NFC", "NFD", "NFKC", "NFKD",
                            "Prepend", "Lowercase"}  # fmt: skip
