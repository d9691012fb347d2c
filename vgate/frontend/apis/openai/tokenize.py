"""vLLM's ``POST /tokenize``, ``POST /detokenize`` and ``GET /tokenizer_info``."""

from functools import partial

import msgspec

from vgate.frontend.apis.decoding import RAW_FIELDS, decode_request
from vgate.frontend.apis.openai.chat.request import ChatRequest, decode_chat, generation_of
from vgate.frontend.http import JSON, HttpRequest, Ignored, Response
from vgate.frontend.pipeline import Generation
from vgate.frontend.services import Services
from vgate.wire.sampling import TokenId


class TokenizeText(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /tokenize`` of a text."""

    prompt: str
    model: str | None = None
    add_special_tokens: bool = True
    return_token_strs: bool | None = None


class ChatOptions(msgspec.Struct, frozen=True):
    """The fields of ``POST /tokenize`` of a conversation that a chat request does not have."""

    # The conversation's template has already written the special tokens.
    add_special_tokens: bool = False
    return_token_strs: bool | None = None


class TokenizeChat(msgspec.Struct, frozen=True):
    """``POST /tokenize`` of a conversation: the prompt that the chat request would send."""

    chat: ChatRequest
    options: ChatOptions


class TokenizeResponse(msgspec.Struct, frozen=True):
    """The token ids; `token_strs` are the vocabulary's own spellings of them."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str | None] | None = None


class DetokenizeRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /detokenize``."""

    tokens: list[TokenId]
    model: str | None = None


_fields = msgspec.json.Decoder(RAW_FIELDS)
_text = msgspec.json.Decoder(TokenizeText)
_options = msgspec.json.Decoder(ChatOptions)
_tokens = msgspec.json.Decoder(DetokenizeRequest)


def decode_tokenize(body: bytes, ignored: Ignored) -> TokenizeText | TokenizeChat:
    """Decode and check a tokenize request."""
    fields = decode_request(_fields, body, ignored)
    fields = {name: value for name, value in fields.items() if bytes(value) != b"null"}
    if "prompt" in fields or "messages" not in fields:
        # Of both vLLM takes the prompt, too.
        return decode_request(_text, msgspec.json.encode(fields), ignored)
    names = ChatOptions.__struct_fields__
    given = {name: fields.pop(name) for name in names if name in fields}
    options = decode_request(_options, msgspec.json.encode(given), ignored)
    return TokenizeChat(decode_chat(msgspec.json.encode(fields), ignored), options)


async def tokenize(services: Services, http: HttpRequest) -> Response:
    """Answer with the token ids of a text or of a conversation, as the model would get them."""
    body = await services.work.body(http)
    request = await services.work.read(http, body, decode_tokenize)
    options: TokenizeText | ChatOptions
    prompt: str | Generation
    if isinstance(request, TokenizeChat):
        options, model, prompt = (
            request.options,
            request.chat.model or "",
            await services.work.done(http, partial(generation_of, request.chat)),
        )
    else:
        options, model, prompt = request, request.model or "", request.prompt
    tokens = await services.pipeline.tokenize(
        http,
        model,
        prompt,
        add_special_tokens=options.add_special_tokens,
        spell=bool(options.return_token_strs),
    )
    answer = TokenizeResponse(len(tokens.ids), tokens.max_model_len, tokens.ids, tokens.spellings)
    encoded = await services.work.done(http, partial(msgspec.json.encode, answer))
    return Response(200, encoded, [JSON])


async def detokenize(services: Services, http: HttpRequest) -> Response:
    """Answer with the text of token ids, special tokens included."""
    body = await services.work.body(http)
    request = await services.work.read(http, body, partial(decode_request, _tokens))
    text = await services.pipeline.detokenize(http, request.model or "", request.tokens)
    return Response(200, msgspec.json.encode({"prompt": text}), [JSON])


async def tokenizer_info(services: Services, http: HttpRequest) -> Response:
    """Answer with the main model's special tokens and chat template, which lm-eval asks for."""
    info = await services.pipeline.tokenizer_info(http, "")
    return Response(200, msgspec.json.encode(info), [JSON])
