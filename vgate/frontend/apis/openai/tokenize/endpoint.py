"""``POST /tokenize`` and ``POST /detokenize``: a model's tokens of a text, and their text."""

from __future__ import annotations

from functools import partial

import msgspec

from vgate.frontend.apis.openai.tokenize.request import (
    DetokenizeResponse,
    TokenizeChat,
    TokenizeResponse,
    decode_detokenize,
    decode_tokenize,
)
from vgate.frontend.apis.openai.tools import tool_use
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.http.request import JSON, HttpRequest, Response
from vgate.frontend.pipeline.conversation import render_chat
from vgate.frontend.services import Services
from vgate.frontend.text.model import TextModel

# A token stands for about so many characters; decoding it costs as much as encoding them.
_CHARS_PER_TOKEN = 4


async def tokenize(services: Services, http: HttpRequest) -> Response:
    """Answer with the token ids of a text or of a conversation, as the model would get them."""
    body = await http.body(services.config.server.max_body_bytes)
    request = decode_tokenize(body, services.models[0].names[0])
    if isinstance(request, TokenizeChat):
        chat = request.chat
        model, text = await _text_of(services, http, chat.model)
        prompt, options = render_chat(model, text, chat, tool_use(chat)), request.options
    else:
        _, text = await _text_of(services, http, request.model)
        prompt, options = request.prompt, request.options
    answer = partial(
        _tokens_of,
        text,
        special=options.add_special_tokens,
        strings=bool(options.return_token_strs),
    )
    return Response(200, await services.tokenize(answer, prompt, len(prompt)), [JSON])


async def detokenize(services: Services, http: HttpRequest) -> Response:
    """Answer with the text of token ids."""
    request = decode_detokenize(await http.body(services.config.server.max_body_bytes))
    _, text = await _text_of(services, http, request.model)
    text.check_token_ids(request.tokens, "tokens")
    chars = _CHARS_PER_TOKEN * len(request.tokens)
    body = await services.tokenize(partial(_prompt_of, text), request.tokens, chars)
    return Response(200, body, [JSON])


async def _text_of(
    services: Services, http: HttpRequest, name: str | None
) -> tuple[ServedModel, TextModel]:
    """Return the named model, or the main one, and its text side."""
    model = services.models[0] if name is None else services.model(name)
    http.log_fields["model"] = name or model.names[0]
    return model, await model.wait_until_ready()


def _tokens_of(text: TextModel, prompt: str, *, special: bool, strings: bool) -> bytes:
    (ids,) = text.tokenizer.encode_batch([prompt], special=special)
    pieces = [text.tokenizer.id_to_token(token) for token in ids] if strings else None
    return msgspec.json.encode(
        TokenizeResponse(len(ids), text.info.max_model_len, ids, pieces),
    )


def _prompt_of(text: TextModel, tokens: list[int]) -> bytes:
    prompt = text.tokenizer.decode(tokens, skip_special_tokens=False)
    return msgspec.json.encode(DetokenizeResponse(prompt))
