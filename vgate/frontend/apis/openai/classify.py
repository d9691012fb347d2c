"""``POST /classify``, as vLLM defines it for models that classify or rank text."""

import time
from array import array
from functools import partial
from typing import Annotated, Any

import msgspec

from vgate.frontend.apis.decoding import decode_request
from vgate.frontend.apis.fields import FieldPolicies, ignored
from vgate.frontend.apis.openai.embeddings import (
    EmbeddingRequest,
    check_input,
    usage_of,
    work_on_vectors,
)
from vgate.frontend.http import JSON, HttpRequest, Ignored, Response
from vgate.frontend.ids import new_id
from vgate.frontend.pipeline import Embedded, PipelineServices


class ClassifyRequest(EmbeddingRequest, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /classify``: texts to classify, without what is about vectors.

    Attributes:
        use_activation: False answers with the outputs of the last layer instead of probabilities.
    """

    encoding_format: Annotated[Any, ignored()] = None
    dimensions: Annotated[Any, ignored()] = None
    embed_dtype: Annotated[Any, ignored()] = None
    endianness: Annotated[Any, ignored()] = None


class Classified(msgspec.Struct, frozen=True):
    """The class of one input.

    Attributes:
        index: The input's place in the request.
        label: The name of the most likely class; None if it has none.
        probs: The probability of each class.
    """

    index: int
    label: str | None
    probs: list[float]
    num_classes: int


_decoder = msgspec.json.Decoder(ClassifyRequest)
_policies = FieldPolicies(ClassifyRequest)


async def classify(services: PipelineServices, http: HttpRequest) -> Response:
    """Answer with the most likely class of each text, and the probabilities of all."""
    request = await services.work.read(http, await services.work.body(http), decode_classify)
    with request.fields.translating():
        asked = request.embed_request(
            tasks=("classify",), activation=request.use_activation is not False
        )
        embedded = await services.pipeline.embed(http, asked)
    encode = partial(_encode, embedded)
    return Response(200, await work_on_vectors(services, http, embedded, encode), [JSON])


def decode_classify(body: bytes, ignored: Ignored) -> ClassifyRequest:
    """Decode and check a request to classify; an error has the field at fault."""
    request = decode_request(_decoder, body, ignored)
    _policies.check(request, ignored)
    check_input(request)
    return request


def _encode(embedded: Embedded) -> bytes:
    labels = embedded.labels or []
    items = []
    for index, vector in enumerate(embedded.vectors):
        probs = array("f", vector).tolist()
        best = max(range(len(probs)), key=probs.__getitem__)
        label = labels[best] if best < len(labels) else None
        items.append(Classified(index, label, probs, len(probs)))
    answer = {
        "id": new_id("classify-"),
        "object": "list",
        "created": int(time.time()),
        "model": embedded.name,
        "data": items,
        "usage": usage_of(embedded),
    }
    return msgspec.json.encode(answer)
