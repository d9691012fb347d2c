"""A tokenizer of a few lines: all that the rest of the frontend needs."""

import codecs
import re

from vgate.errors import InvalidValueError
from vgate.frontend.text.pairs import PairTemplate
from vgate.frontend.text.tokenizer import DecodeStep, TokenLimit, TooMuchAtOnceError

BEGIN = 256
_SPELLINGS = {BEGIN: "<begin>", 257: "<end>"}
_IDS = {spelling: token_id for token_id, spelling in _SPELLINGS.items()}
_SPECIAL = re.compile(f"({'|'.join(map(re.escape, _IDS))})")


_SHIELD = "\udfff"


class BytesTokenizer:
    """Every byte is a token; a text begins with a special one."""

    byte_level = True
    vocab_size = 258

    pair = PairTemplate([BEGIN], [], [], None)

    def first_tokens(self, text: str, tokens: int) -> str:
        return text.encode()[:tokens].decode(errors="ignore")

    def least_tokens(self, text: str) -> int:
        return len(text) // len("<begin>")

    def encode(self, text: str, limit: TokenLimit | None = None) -> list[int]:
        ids: list[int] = []
        for place, piece in enumerate(_SPECIAL.split(text)):
            ids += [_IDS[piece]] if place & 1 else piece.replace(_SHIELD, "").encode()
        if limit is not None and len(ids) > limit.keep:
            limit.stop(len(ids))
        return ids

    def shielded(self, text: str) -> str:
        return _SPECIAL.sub(lambda found: f"<{_SHIELD}{found[0][1:]}", text)

    def encode_within(
        self, text: str, max_new_chars: int, limit: TokenLimit | None = None
    ) -> list[int]:
        if len(text) > max_new_chars:
            raise TooMuchAtOnceError
        return self.encode(text, limit)

    def encode_batch(
        self, texts: list[str], *, special: bool, limit: TokenLimit | None = None
    ) -> list[list[int]]:
        around = [BEGIN] if special else []
        encoded = [self.encode(text) for text in texts]
        if limit is not None and not limit.refuses:
            room = limit.keep - len(around)
            if room <= 0:
                message = "`truncate_prompt_tokens` is too small"
                raise InvalidValueError(message, param="truncate_prompt_tokens")
            encoded = [TokenLimit(room, limit.side).cut(ids) for ids in encoded]
        return [around + ids for ids in encoded]

    def decode(self, ids: list[int], *, skip_special_tokens: bool = True) -> str:
        shown = [i for i in ids if i not in _SPELLINGS or not skip_special_tokens]
        return b"".join(map(self.bytes_of, shown)).decode("utf-8", "replace")

    def decode_stream(
        self, prompt: list[int] | None = None, *, skip_special_tokens: bool = True
    ) -> DecodeStep:
        decoder = codecs.getincrementaldecoder("utf-8")("replace")

        def step(token_id: int) -> str:
            hidden = skip_special_tokens and token_id in _SPELLINGS
            return "" if hidden else decoder.decode(self.bytes_of(token_id))

        for token_id in prompt or []:
            step(token_id)
        return step

    def lost_track(self, error: Exception) -> bool:
        return False

    def bytes_of(self, token_id: int) -> bytes:
        if token_id in _SPELLINGS:
            return _SPELLINGS[token_id].encode()
        return bytes([token_id]) if token_id < BEGIN else b""

    def id_to_token(self, token_id: int) -> str | None:
        return _SPELLINGS.get(token_id, str(token_id)) if token_id < self.vocab_size else None

    def token_to_id(self, token: str) -> int | None:
        return _IDS.get(token, int(token) if token.isdigit() else None)
