"""``POST /v1/score`` and ``POST /v1/rerank``, as vLLM defines them.

The score of two texts is what a cross-encoder says that reads both at once, or the cosine
similarity of the embeddings that an embedding model makes of each.
"""

import math
import re
import time
from array import array
from functools import partial
from operator import mul
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vgate.frontend.apis.decoding import decode_request
from vgate.frontend.apis.fields import ACCEPTED, FieldMap, FieldPolicies, ignored, refused
from vgate.frontend.apis.openai.embeddings import (
    MAX_INPUTS,
    Padding,
    check_truncation,
    truncation_of,
    usage_of,
    work_on_vectors,
)
from vgate.frontend.apis.openai.errors import invalid
from vgate.frontend.http import JSON, HttpRequest, Ignored, Response
from vgate.frontend.ids import new_id
from vgate.frontend.pipeline import Embedded, EmbedRequest, PipelineServices

_Text = Annotated[str, Meta(min_length=1)]
_Texts = _Text | Annotated[list[_Text], Meta(min_length=1, max_length=MAX_INPUTS)]
# 0 means no limit, as in vLLM.
_Limit = Annotated[int, Meta(ge=0, le=2**31 - 1)]
# The names that vLLM takes for the two sides, in its order.
_SIDES = (
    ("queries", "documents"),
    ("queries", "items"),
    ("data_1", "data_2"),
    ("text_1", "text_2"),
)
# An input of an `EmbedRequest`, as its errors name it.
_INPUT = re.compile(r"input\[(\d+)\]")


class ScoringRequest(msgspec.Struct, kw_only=True, frozen=True):
    """The fields that score and rerank requests share.

    Attributes:
        truncate_prompt_tokens: The most tokens of each text, or of each pair if the model reads it
            at once; -1 for the model's limit. None refuses what is too long.
        max_tokens_per_query, max_tokens_per_doc: The most tokens of each text of the first and of
            the second side. Special tokens don't count.
        use_activation: False for a cross-encoder's plain outputs. A cosine stays the same.
        instruction, chat_template_kwargs: Variables for the template that is configured for pairs.
    """

    model: str | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    max_tokens_per_query: _Limit | None = None
    max_tokens_per_doc: _Limit | None = None
    user: Annotated[str | None, ACCEPTED] = None
    use_activation: bool | None = None
    instruction: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    mm_processor_kwargs: Annotated[Any, ignored({})] = None
    padding: Padding = None
    priority: Annotated[Any, ignored(0)] = None
    cache_salt: Annotated[Any, ignored()] = None
    request_id: Annotated[Any, ignored(instead="send the header `x-request-id`")] = None
    normalize: Annotated[Any, refused(instead="leave it out")] = None


class ScoreRequest(ScoringRequest, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/score``: pairs of texts, one from each side.

    Either side is one text or a list. The sides have several names, of which a request uses two.
    """

    text_1: _Texts | None = None
    text_2: _Texts | None = None
    queries: _Texts | None = None
    documents: _Texts | None = None
    items: _Texts | None = None
    data_1: _Texts | None = None
    data_2: _Texts | None = None

    @property
    def sides(self) -> tuple[str, str]:
        """The names that the request uses for its two sides."""

        def given(names: tuple[str, str]) -> int:
            return sum(getattr(self, name) is not None for name in names)

        best = max(_SIDES, key=given)
        # If none is given, an error names the oldest ones as missing.
        return best if given(best) else _SIDES[-1]


class RerankRequest(ScoringRequest, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/rerank``: one query, and the documents to order by their scores with it."""

    query: _Text
    documents: _Texts
    top_n: _Limit | None = None
    return_documents: bool | None = None


class Score(msgspec.Struct, frozen=True):
    """The score of one pair: a cosine from -1 to 1, or a probability."""

    index: int
    score: float
    object: Literal["score"] = "score"


class Document(msgspec.Struct, frozen=True):
    """A document as it was sent."""

    text: str


class RerankResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """The score of one document; `index` is its place in the request."""

    index: int
    relevance_score: float
    document: Document | None = None


class _TextFields(FieldMap):
    """Renames the inputs of an embed request, in errors, to the fields that the texts came from.

    `one` and `other` are the names of the two sides.
    """

    def __init__(self, request: ScoringRequest, one: str, other: str) -> None:
        # `messages` is what a template of the model gets.
        super().__init__({"input": other, "messages": other})
        self._fields = [(name, getattr(request, name)) for name in (one, other)]

    def name(self, path: str) -> str:
        """Return a field's path in the client's request."""
        if (found := _INPUT.match(path)) is None:
            return super().name(path)
        index, rest = int(found[1]), path[found.end() :]
        (one, first), (other, second) = self._fields
        field, texts = (one, first) if index < len(_listed(first)) else (other, second)
        place = index if field == one else index - len(_listed(first))
        return (field if isinstance(texts, str) else f"{field}[{place}]") + rest


_score_decoder = msgspec.json.Decoder(ScoreRequest)
_rerank_decoder = msgspec.json.Decoder(RerankRequest)
_score_policies = FieldPolicies(ScoreRequest)
_rerank_policies = FieldPolicies(RerankRequest)


async def score(services: PipelineServices, http: HttpRequest) -> Response:
    """Answer with the similarity of each pair of texts."""
    return await score_body(services, http, await services.work.body(http))


async def score_body(services: PipelineServices, http: HttpRequest, body: bytes) -> Response:
    """Answer a score request whose body has been read."""
    request = await services.work.read(http, body, decode_score)
    embedded, scores = await _scores(services, http, request, *request.sides)
    answer = {
        "id": new_id("score-"),
        "object": "list",
        "created": int(time.time()),
        "model": embedded.name,
        "data": [Score(index, value) for index, value in enumerate(scores)],
        "usage": usage_of(embedded),
    }
    return Response(200, msgspec.json.encode(answer), [JSON])


async def rerank(services: PipelineServices, http: HttpRequest) -> Response:
    """Answer with documents, the most similar to the query first."""
    return await rerank_body(services, http, await services.work.body(http))


async def rerank_body(services: PipelineServices, http: HttpRequest, body: bytes) -> Response:
    """Answer a rerank request whose body has been read."""
    request = await services.work.read(http, body, decode_rerank)
    embedded, scores = await _scores(services, http, request, "query", "documents")
    documents = _listed(request.documents)
    # Documents with the same score keep their order.
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    shown = request.return_documents is not False
    results = [
        RerankResult(index, scores[index], Document(documents[index]) if shown else None)
        for index in order[: request.top_n or None]
    ]
    answer = {
        "id": new_id("score-"),
        "model": embedded.name,
        "usage": usage_of(embedded),
        "results": results,
    }
    encode = partial(msgspec.json.encode, answer)
    return Response(200, await services.work.done(http, encode), [JSON])


def decode_score(body: bytes, ignored: Ignored) -> ScoreRequest:
    """Decode and check a score request; an error has the field at fault."""
    request = decode_request(_score_decoder, body, ignored)
    _score_policies.check(request, ignored)
    one, other = request.sides
    for name in dict.fromkeys(name for sides in _SIDES for name in sides):
        if name not in {one, other} and getattr(request, name) is not None:
            raise invalid(name, f"must be left out beside `{one}` and `{other}`, the two sides")
    for name in (one, other):
        if getattr(request, name) is None:
            raise invalid(name, "is required")
    first, second = (len(_listed(getattr(request, name))) for name in (one, other))
    if first not in {1, second}:
        problem = f"must be one text, or as many as `{other}`, got {first} and {second}"
        raise invalid(one, problem)
    check_truncation(request.truncate_prompt_tokens)
    return request


def decode_rerank(body: bytes, ignored: Ignored) -> RerankRequest:
    """Decode and check a rerank request; an error has the field at fault."""
    request = decode_request(_rerank_decoder, body, ignored)
    _rerank_policies.check(request, ignored)
    check_truncation(request.truncate_prompt_tokens)
    return request


async def _scores(
    services: PipelineServices, http: HttpRequest, request: ScoringRequest, one: str, other: str
) -> tuple[Embedded, list[float]]:
    """Return the vectors of all texts or pairs, and the score of each text of the second side.

    `one` and `other` are the names of the two sides.
    """
    first, second = _listed(getattr(request, one)), _listed(getattr(request, other))
    limits = [request.max_tokens_per_query or None] * len(first)
    limits += [request.max_tokens_per_doc or None] * len(second)
    embed = EmbedRequest(
        model=request.model or "",
        inputs=[*first, *second],
        truncation=truncation_of(request.truncate_prompt_tokens, request.truncation_side),
        text_limits=limits if any(limits) else [],
        tasks=("embed", "classify"),
        first_count=len(first),
        activation=request.use_activation is not False,
        template_kwargs=_template_kwargs(request),
    )
    with _TextFields(request, one, other).translating():
        embedded = await services.pipeline.embed(http, embed)
    if not embedded.templated:
        for name in ("instruction", "chat_template_kwargs"):
            if getattr(request, name):
                http.ignored.add(name)
    if embedded.labels is not None:
        return embedded, [array("f", vector)[0] for vector in embedded.vectors]
    compare = partial(_cosines, embedded.vectors, len(first))
    return embedded, await work_on_vectors(services, http, embedded, compare)


def _template_kwargs(request: ScoringRequest) -> dict[str, Any]:
    own = {} if request.instruction is None else {"instruction": request.instruction}
    return own | (request.chat_template_kwargs or {})


def _listed(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts


def _cosines(vectors: list[bytes], first_count: int) -> list[float]:
    """Return the cosine of each pair of vectors, which are float32.

    The vectors of the first side come first. A single one is compared with all of the other side.
    """
    numbers = [array("f", vector) for vector in vectors]
    lengths = [math.hypot(*values) for values in numbers]
    cosines = []
    for other in range(first_count, len(vectors)):
        one = 0 if first_count == 1 else other - first_count
        product = lengths[one] * lengths[other]
        # A vector of zeros has no direction; vLLM's score is 0, too.
        cosine = sum(map(mul, numbers[one], numbers[other])) / product if product else 0.0
        cosines.append(cosine)
    return cosines
