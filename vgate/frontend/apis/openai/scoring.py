"""``POST /v1/score``, ``/v1/rerank`` and ``/v2/rerank`` as vLLM defines them for embedding models.

A score is the cosine of the angle between the vectors of two texts.
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
from vgate.frontend.apis.fields import ACCEPTED, FieldMap, FieldPolicies, refused, told
from vgate.frontend.apis.openai.embeddings import INLINE_BYTES, MAX_INPUTS
from vgate.frontend.apis.openai.errors import invalid
from vgate.frontend.http import JSON, HttpRequest, Ignored, Response
from vgate.frontend.ids import new_id
from vgate.frontend.pipeline import Embedded, EmbedRequest, Truncation
from vgate.frontend.services import Services

_Text = Annotated[str, Meta(min_length=1)]
_Texts = _Text | Annotated[list[_Text], Meta(min_length=1, max_length=MAX_INPUTS)]
# 0 is none.
_Limit = Annotated[int, Meta(ge=0, le=2**31 - 1)]
# By which names vLLM takes the two sides, in its order.
_SIDES = (
    ("queries", "documents"),
    ("queries", "items"),
    ("data_1", "data_2"),
    ("text_1", "text_2"),
)
_INPUT = re.compile(r"input\[(\d+)\]")


class ScoringRequest(msgspec.Struct, kw_only=True, frozen=True):
    """The fields of both.

    Attributes:
        truncate_prompt_tokens: The most tokens of each text; -1 for the model's limit. None refuses
            a text that is too long.
        max_tokens_per_query, max_tokens_per_doc: The most tokens of a text of one side, its special
            tokens not counted.
    """

    model: str | None = None
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    max_tokens_per_query: _Limit | None = None
    max_tokens_per_doc: _Limit | None = None
    user: Annotated[str | None, ACCEPTED] = None
    # A cosine is the same for vectors of any length.
    use_activation: Annotated[bool | None, ACCEPTED] = None

    instruction: Annotated[Any, told(instead="write it into the query")] = None
    chat_template_kwargs: Annotated[Any, told({})] = None
    mm_processor_kwargs: Annotated[Any, told({})] = None
    padding: Annotated[Any, told("do_not_pad")] = None
    priority: Annotated[Any, told(0)] = None
    cache_salt: Annotated[Any, told()] = None
    request_id: Annotated[Any, told(instead="send the header `x-request-id`")] = None
    normalize: Annotated[Any, refused(instead="leave it out")] = None


class ScoreRequest(ScoringRequest, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/score``: one text or several, each with a text of the other side."""

    text_1: _Texts | None = None
    text_2: _Texts | None = None
    queries: _Texts | None = None
    documents: _Texts | None = None
    items: _Texts | None = None
    data_1: _Texts | None = None
    data_2: _Texts | None = None

    @property
    def sides(self) -> tuple[str, str]:
        """The names by which the request has its two sides."""
        given = [sum(getattr(self, name) is not None for name in pair) for pair in _SIDES]
        # Without any it lacks the last ones, which are the oldest names.
        return _SIDES[given.index(most)] if (most := max(given)) else _SIDES[-1]


class RerankRequest(ScoringRequest, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/rerank``: one query, and the documents that are to be put in order."""

    query: _Text
    documents: _Texts
    top_n: _Limit | None = None
    return_documents: bool | None = None


class Score(msgspec.Struct, frozen=True):
    """One pair's score, from -1 to 1."""

    index: int
    score: float
    object: Literal["score"] = "score"


class Document(msgspec.Struct, frozen=True):
    """A document as it was sent."""

    text: str


class RerankResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """One document; `index` is its place in the request."""

    index: int
    relevance_score: float
    document: Document | None = None


class _Sides(FieldMap):
    """Renames the inputs of an embed request, in errors, to the texts of the two sides."""

    def __init__(self, request: ScoringRequest, one: str, other: str) -> None:
        super().__init__({"input": other})
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


async def score(services: Services, http: HttpRequest) -> Response:
    """Answer with how alike pairs of texts are."""
    return await score_body(services, http, await services.work.body(http))


async def score_body(services: Services, http: HttpRequest, body: bytes) -> Response:
    """Answer a score request whose body is read."""
    request = await services.work.read(http, body, decode_score)
    embedded, scores = await _scores(services, http, request, *request.sides)
    data = [Score(index, value) for index, value in enumerate(scores)]
    answer = {
        "id": new_id("score-"),
        "object": "list",
        "created": int(time.time()),
        "model": embedded.name,
        "data": data,
        "usage": _usage(embedded),
    }
    return Response(200, msgspec.json.encode(answer), [JSON])


async def rerank(services: Services, http: HttpRequest) -> Response:
    """Answer with documents in the order of their likeness to a query."""
    return await rerank_body(services, http, await services.work.body(http))


async def rerank_body(services: Services, http: HttpRequest, body: bytes) -> Response:
    """Answer a rerank request whose body is read."""
    request = await services.work.read(http, body, decode_rerank)
    embedded, scores = await _scores(services, http, request, "query", "documents")
    documents = _listed(request.documents)
    # Those of one score stay as they were.
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    shown = request.return_documents is not False
    results = [
        RerankResult(index, scores[index], Document(documents[index]) if shown else None)
        for index in order[: request.top_n or None]
    ]
    answer = {
        "id": new_id("score-"),
        "model": embedded.name,
        "usage": _usage(embedded),
        "results": results,
    }
    encode = partial(msgspec.json.encode, answer)
    return Response(200, await services.work.done(http, encode), [JSON])


def decode_score(body: bytes, ignored: Ignored) -> ScoreRequest:
    """Decode and check a score request; an error has the field at fault."""
    request = decode_request(_score_decoder, body, ignored)
    _score_policies.check(request, ignored)
    for name in (sides := request.sides):
        if getattr(request, name) is None:
            raise invalid(name, "is required")
    first, second = (len(_listed(getattr(request, name))) for name in sides)
    if first not in {1, second}:
        problem = f"must be one text, or as many as `{sides[1]}`, got {first} and {second}"
        raise invalid(sides[0], problem)
    _check(request)
    return request


def decode_rerank(body: bytes, ignored: Ignored) -> RerankRequest:
    """Decode and check a rerank request; an error has the field at fault."""
    request = decode_request(_rerank_decoder, body, ignored)
    _rerank_policies.check(request, ignored)
    _check(request)
    return request


def _check(request: ScoringRequest) -> None:
    if request.truncate_prompt_tokens == 0:
        problem = "must be at least 1, or -1 for the model's limit, got 0"
        raise invalid("truncate_prompt_tokens", problem)


async def _scores(
    services: Services, http: HttpRequest, request: ScoringRequest, one: str, other: str
) -> tuple[Embedded, list[float]]:
    """Return what was embedded, and the score of each text of the second side."""
    first, second = _listed(getattr(request, one)), _listed(getattr(request, other))
    keep = request.truncate_prompt_tokens
    limits = [request.max_tokens_per_query or None] * len(first)
    limits += [request.max_tokens_per_doc or None] * len(second)
    embed = EmbedRequest(
        model=request.model or "",
        inputs=[*first, *second],
        # As embeddings have it by default.
        truncation=None if keep is None else Truncation(keep, request.truncation_side or "right"),
        text_limits=limits if any(limits) else [],
    )
    with _Sides(request, one, other).translating():
        embedded = await services.pipeline.embed(http, embed)
    work = partial(_cosines, embedded.vectors, len(first))
    if sum(map(len, embedded.vectors)) > INLINE_BYTES:
        return embedded, await services.work.run(http, work)
    return embedded, work()


def _listed(texts: str | list[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else texts


def _cosines(vectors: list[bytes], firsts: int) -> list[float]:
    """Return the cosine of each pair; the first vectors are those of one side."""
    sides = [array("f", vector) for vector in vectors]
    lengths = [math.hypot(*values) for values in sides]
    return [
        _cosine(sides[one], sides[other], lengths[one] * lengths[other])
        for one, other in (
            (other - firsts if firsts > 1 else 0, other) for other in range(firsts, len(sides))
        )
    ]


def _cosine(one: "array[float]", other: "array[float]", lengths: float) -> float:
    # A vector of zeros is like no other.
    return sum(map(mul, one, other)) / lengths if lengths else 0.0


def _usage(embedded: Embedded) -> dict[str, int]:
    return dict.fromkeys(("prompt_tokens", "total_tokens"), embedded.prompt_tokens)
