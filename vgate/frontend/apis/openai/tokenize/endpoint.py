"""``POST /tokenize`` and ``POST /detokenize``: a model's tokens of a text, and their text."""

from __future__ import annotations

import msgspec

from vgate.frontend.apis.openai.chat.translate import generation_of
from vgate.frontend.apis.openai.tokenize.request import (
    DetokenizeResponse,
    TokenizeChat,
    TokenizeResponse,
    decode_detokenize,
    decode_tokenize,
)
from vgate.frontend.http.request import JSON, HttpRequest, Response
from vgate.frontend.pipeline.generation import Generation
from vgate.frontend.services import Services


async def tokenize(services: Services, http: HttpRequest) -> Response:
    """Answer with the token ids of a text or of a conversation, as the model would get them."""
    main = services.models.main
    request = decode_tokenize(await http.body(services.max_body_bytes), main)
    prompt: str | Generation
    if isinstance(request, TokenizeChat):
        model, prompt = request.chat.model, generation_of(request.chat)
    else:
        model, prompt = request.model or main, request.prompt
    tokens = await services.pipeline.tokenize(
        http,
        model,
        prompt,
        add_special_tokens=request.options.add_special_tokens,
        spell=bool(request.options.return_token_strs),
    )
    answer = TokenizeResponse(len(tokens.ids), tokens.max_model_len, tokens.ids, tokens.spellings)
    return Response(200, msgspec.json.encode(answer), [JSON])


async def detokenize(services: Services, http: HttpRequest) -> Response:
    """Answer with the text of token ids."""
    request = decode_detokenize(await http.body(services.max_body_bytes))
    model = request.model or services.models.main
    text = await services.pipeline.detokenize(http, model, request.tokens)
    return Response(200, msgspec.json.encode(DetokenizeResponse(text)), [JSON])
