"""vLLM's ``POST /tokenize``, ``POST /detokenize`` and ``GET /tokenizer_info``."""

from functools import partial
from typing import Any

import msgspec

from vgate.frontend.apis.decoding import NULL, RawFields, decode_request
from vgate.frontend.apis.openai.chat.request import ChatRequest, decode_chat_as, generation_of
from vgate.frontend.http import (
    JSON,
    HttpRequest,
    Ignored,
    Response,
    encode_emptied,
    encode_text,
)
from vgate.frontend.pipeline import Generation, Tokens
from vgate.frontend.services import Services
from vgate.wire.parameters import TokenId


class TokenizeText(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /tokenize`` of a text."""

    prompt: str
    model: str | None = None
    add_special_tokens: bool = True
    return_token_strs: bool | None = None


class TokenizeChat(ChatRequest, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /tokenize`` of a conversation: the prompt that the chat request would send."""

    return_token_strs: bool | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /detokenize``."""

    tokens: list[TokenId]
    model: str | None = None


class _Source(RawFields):
    """What is to be tokenised."""

    prompt: msgspec.Raw = NULL
    messages: msgspec.Raw = NULL


_source = msgspec.json.Decoder(_Source)
_text = msgspec.json.Decoder(TokenizeText)
_chat = msgspec.json.Decoder(TokenizeChat)
_tokens = msgspec.json.Decoder(DetokenizeRequest)


def decode_tokenize(body: bytes, ignored: Ignored) -> TokenizeText | TokenizeChat:
    """Decode and check a tokenize request."""
    source = decode_request(_source, body, ignored)
    # Of both vLLM takes the prompt, too.
    if source.messages == NULL or source.prompt != NULL:
        return decode_request(_text, body, ignored, clean=_without_nulls)
    return decode_chat_as(_chat, body, ignored)


def _without_nulls(document: dict[str, Any], _ignored: Ignored) -> None:
    for name in [name for name, value in document.items() if value is None]:
        del document[name]


async def tokenize(services: Services, http: HttpRequest) -> Response:
    """Answer with the token ids of a text or of a conversation, as the model would get them."""
    body = await services.work.body(http)
    request = await services.work.read(http, body, decode_tokenize)
    prompt: str | Generation
    if isinstance(request, TokenizeChat):
        # The conversation's template has already written the special tokens.
        chat = msgspec.structs.replace(request, add_special_tokens=None)
        prompt = await services.work.done(http, partial(generation_of, chat))
    else:
        prompt = request.prompt
    tokens = await services.pipeline.tokenize(
        http,
        request.model or "",
        prompt,
        add_special_tokens=bool(request.add_special_tokens),
        spell=bool(request.return_token_strs),
    )
    return Response(200, await services.work.done(http, partial(_written, tokens)), [JSON])


def _written(tokens: Tokens) -> bytes:
    """Return the answer: how many tokens there are, their ids and the vocabulary's spellings.

    The tokens are gone then.
    """
    given = tokens.spellings
    head = b'{"count":%d,"max_model_len":%d,"tokens":' % (len(tokens.ids), tokens.max_model_len)
    ids, spellings = encode_emptied(tokens.ids), b"null" if given is None else encode_emptied(given)
    return b"".join((head, ids, b',"token_strs":', spellings, b"}"))


async def detokenize(services: Services, http: HttpRequest) -> Response:
    """Answer with the text of token ids, special tokens included."""
    body = await services.work.body(http)
    request = await services.work.read(http, body, partial(decode_request, _tokens))
    text = await services.pipeline.detokenize(http, request.model or "", request.tokens)
    encoded = await services.work.done(http, partial(encode_text, text))
    return Response(200, b"".join((b'{"prompt":', encoded, b"}")), [JSON])


async def tokenizer_info(services: Services, http: HttpRequest) -> Response:
    """Answer with the main model's special tokens and chat template, which lm-eval asks for."""
    info = await services.pipeline.tokenizer_info(http, "")
    return Response(200, msgspec.json.encode(info), [JSON])
