"""Requests and responses of ``/tokenize`` and ``/detokenize`` as vLLM defines them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from vgate.errors import InvalidValueError
from vgate.frontend.apis.decoding import decode_request
from vgate.frontend.apis.openai.chat.request import ChatRequest, decode_chat
from vgate.wire.sampling import TokenId

_ModelName = Annotated[str, Meta(min_length=1)]
# Fields that say how a conversation is answered; the others are those of a chat request.
_CHAT_OPTIONS = ("add_special_tokens", "return_token_strs")


class Options(msgspec.Struct, frozen=True):
    """How a text is tokenised.

    Attributes:
        add_special_tokens: Put the tokens around it that the model expects around a plain text.
        return_token_strs: Answer with each token's spelling as well.
    """

    # A conversation's template has written the special tokens already.
    add_special_tokens: bool = False
    return_token_strs: bool | None = None


class TokenizeText(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /tokenize`` of a text."""

    prompt: str
    model: _ModelName | None = None
    add_special_tokens: bool = True
    return_token_strs: bool | None = None

    @property
    def options(self) -> Options:
        """How it is tokenised."""
        return Options(self.add_special_tokens, self.return_token_strs)


class TokenizeChat(msgspec.Struct, frozen=True):
    """``POST /tokenize`` of a conversation: what a chat request of the same fields would send."""

    chat: ChatRequest
    options: Options


class TokenizeResponse(msgspec.Struct, frozen=True):
    """The token ids; `token_strs` are the vocabulary's own spellings of them."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str | None] | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /detokenize``."""

    tokens: list[TokenId]
    model: _ModelName | None = None


class DetokenizeResponse(msgspec.Struct, frozen=True):
    """The text of the tokens, special ones included."""

    prompt: str


_fields = msgspec.json.Decoder(dict[str, msgspec.Raw])
_text = msgspec.json.Decoder(TokenizeText)
_options = msgspec.json.Decoder(Options)
_tokens = msgspec.json.Decoder(DetokenizeRequest)


def decode_tokenize(body: bytes, main_model: str) -> TokenizeText | TokenizeChat:
    """Decode and check a tokenising request; `main_model` is meant where none is named.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    fields = decode_request(_fields, body)
    if "messages" not in fields:
        return decode_request(_text, body)
    if "prompt" in fields:
        message = "send either `prompt` or `messages`, not both"
        raise InvalidValueError(message, param="prompt")
    given = {name: fields.pop(name) for name in _CHAT_OPTIONS if name in fields}
    options = decode_request(_options, msgspec.json.encode(given))
    if bytes(fields.get("model", b"null")) == b"null":
        fields["model"] = msgspec.Raw(msgspec.json.encode(main_model))
    return TokenizeChat(decode_chat(msgspec.json.encode(fields)), options)


def decode_detokenize(body: bytes) -> DetokenizeRequest:
    """Decode and check a detokenising request.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    return decode_request(_tokens, body)
