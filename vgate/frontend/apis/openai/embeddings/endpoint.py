"""``POST /v1/embeddings``."""

from __future__ import annotations

import asyncio
from functools import partial

from vgate.frontend.apis.fields import FieldMap
from vgate.frontend.apis.openai.embeddings.request import (
    EmbeddingRequest,
    decode_embeddings,
    encode_response,
)
from vgate.frontend.http.request import JSON, HttpRequest, Response
from vgate.frontend.pipeline.generation import Truncation
from vgate.frontend.pipeline.port import EmbedRequest
from vgate.frontend.services import Services

# Encoding more takes milliseconds, for which no stream shall wait.
_ENCODE_INLINE_BYTES = 65_536

_INPUTS = FieldMap({})
_ONE_INPUT = FieldMap({"input[]": "input"})


async def embeddings(services: Services, http: HttpRequest) -> Response:
    """Answer an embedding request."""
    request = decode_embeddings(await http.body(services.max_body_bytes))
    with (_ONE_INPUT if request.is_one else _INPUTS).translating():
        answer = await services.pipeline.embed(http, _embed_request(request))
    vectors = answer.vectors
    encode = partial(encode_response, vectors, answer.name, answer.prompt_tokens, request.encoding)
    if sum(map(len, vectors)) > _ENCODE_INLINE_BYTES:
        body = await asyncio.get_running_loop().run_in_executor(None, encode)
        return Response(200, body, [JSON])
    return Response(200, encode(), [JSON])


def _embed_request(request: EmbeddingRequest) -> EmbedRequest:
    keep = request.truncate_prompt_tokens
    # vLLM keeps the first tokens for pooling models, and so the one that many of them pool.
    side = request.truncation_side or "right"
    return EmbedRequest(
        model=request.model,
        inputs=request.inputs,
        add_special_tokens=request.add_special_tokens,
        truncation=None if keep is None else Truncation(keep, side),
        dimensions=request.dimensions,
    )
