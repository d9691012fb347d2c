"""The `Tokenizer` of a tokenizer.json, by Hugging Face's tokenizers library."""

import re
from functools import partial

import tokenizers
from tokenizers.decoders import ByteLevel, DecodeStream

from vgate.errors import InvalidValueError
from vgate.frontend.text.piece_encoder import PieceEncoder
from vgate.frontend.text.tokenizer import DecodeStep, TokenLimit
from vgate.frontend.text.word_encoder import BYTE_OF

_BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
_SPACE = "\u2581"  # how SentencePiece writes a space
# DecodeStream raises this when bytes that were a character turn out not to be one
# (https://github.com/vllm-project/vllm/issues/17448); vLLM starts a new stream then.
_INVALID_PREFIX = "Invalid prefix encountered"


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
        self.decode = library.decode
        self.id_to_token, self.token_to_id = library.id_to_token, library.token_to_id
        self._added = library.get_added_tokens_decoder()
        # Also inside a sequence of decoders.
        self._spells_bytes = decoder is not None and b'"ByteLevel"' in decoder.__getstate__()

    def encode_batch(
        self, texts: list[str], *, special: bool, truncation: TokenLimit | None = None
    ) -> list[list[int]]:
        """Tokenise texts."""
        encode = self.library.encode_batch_fast  # computes no offsets, as in `PieceEncoder`
        if truncation is None:
            return [encoding.ids for encoding in encode(texts, add_special_tokens=special)]
        added = self.library.num_special_tokens_to_add(is_pair=False) if special else 0
        if truncation.keep <= added:
            raise InvalidValueError(
                f"`truncate_prompt_tokens` must be more than the {added} special tokens, "
                f"got {truncation.keep}",
                param="truncate_prompt_tokens",
            )
        encodings = encode(texts, add_special_tokens=False)
        for encoding in encodings:
            encoding.truncate(truncation.keep - added, direction=truncation.side)
        finish = self.library.post_process
        return [finish(encoding, add_special_tokens=special).ids for encoding in encodings]

    def decode_stream(
        self, prompt: list[int] | None = None, *, skip_special_tokens: bool = True
    ) -> DecodeStep:
        """Return a function that decodes a sequence token by token."""
        stream = DecodeStream(ids=prompt, skip_special_tokens=skip_special_tokens)
        return partial(stream.step, self.library)

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
