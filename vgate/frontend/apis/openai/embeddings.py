"""``POST /v1/embeddings`` as OpenAI and vLLM define it, and vLLM's ``POST /pooling``."""

import time
from collections.abc import Callable
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from vgate.frontend.apis.decoding import decode_request
from vgate.frontend.apis.fields import ACCEPTED, FieldMap, FieldPolicies, ignored, refused
from vgate.frontend.apis.openai.errors import invalid, unsupported
from vgate.frontend.apis.openai.vectors import DTYPES, Encoding, encode_vector
from vgate.frontend.http import JSON, HttpRequest, Ignored, Response
from vgate.frontend.ids import new_id
from vgate.frontend.pipeline import Embedded, EmbedRequest, PipelineServices, Truncation
from vgate.wire.parameters import Dimensions, TokenId

_Request = TypeVar("_Request", bound="EmbeddingRequest")
_Result = TypeVar("_Result")

# OpenAI's limit (API reference, "Create embeddings").
MAX_INPUTS = 2048

# Working on more bytes of vectors than this takes milliseconds, which would delay every stream.
_INLINE_BYTES = 65_536

_Text = Annotated[str, Meta(min_length=1)]
_Tokens = Annotated[list[TokenId], Meta(min_length=1)]
_List = Annotated[list[_Text | TokenId | _Tokens], Meta(min_length=1)]
# vLLM's `max_length` embeds the padding too, which only models of images are trained with.
Padding = Annotated[Any, refused("do_not_pad", instead="leave it out")]


class EmbeddingRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/embeddings``.

    Attributes:
        dimensions: Length of the vectors, for models trained to have them cut.
        truncate_prompt_tokens: The most tokens of each input to embed; -1 for the model's limit.
            None refuses an input that is too long.
        truncation_side: The side from which tokens are removed.
        embed_dtype, endianness: How base64 packs the numbers.
        use_activation: True scales the vectors to length 1, whatever the model does.
    """

    model: str | None = None
    input: _Text | _List | None = None
    encoding_format: str | None = None
    dimensions: Dimensions | None = None
    user: Annotated[str | None, ACCEPTED] = None
    add_special_tokens: bool = True
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    embed_dtype: str | None = None
    endianness: str | None = None
    use_activation: bool | None = None

    messages: Annotated[Any, refused(instead="send the text as `input`")] = None
    add_generation_prompt: Annotated[Any, ignored(False)] = None
    continue_final_message: Annotated[Any, ignored(False)] = None
    chat_template: Annotated[Any, ignored()] = None
    chat_template_kwargs: Annotated[Any, ignored({})] = None
    media_io_kwargs: Annotated[Any, ignored({})] = None
    mm_processor_kwargs: Annotated[Any, ignored({})] = None
    normalize: Annotated[Any, refused(instead="use `use_activation`")] = None
    padding: Padding = None
    priority: Annotated[Any, ignored(0)] = None
    cache_salt: Annotated[Any, ignored()] = None
    request_id: Annotated[Any, ignored(instead="send the header `x-request-id`")] = None

    @property
    def is_single(self) -> bool:
        """Whether the input is one text or one list of token ids."""
        given = self.input
        return isinstance(given, str) or (given is not None and isinstance(given[0], int))

    def embed_request(self, **more: Any) -> EmbedRequest:
        """Return what the pipeline is asked for; `more` are further fields."""
        return EmbedRequest(
            model=self.model or "",
            inputs=[self.input] if self.is_single else self.input,  # type: ignore[arg-type]
            add_special_tokens=self.add_special_tokens,
            truncation=truncation_of(self.truncate_prompt_tokens, self.truncation_side),
            **more,
        )

    @property
    def fields(self) -> FieldMap:
        """How errors name the inputs."""
        return _SINGLE_INPUT if self.is_single else _INPUTS

    @property
    def encoding(self) -> Encoding:
        """The format of the vectors."""
        return Encoding(
            as_base64=self.encoding_format == "base64",
            dtype=self.embed_dtype or "float32",
            big_endian=self.endianness == "big",
            unit_length=bool(self.use_activation),
        )


class PoolingRequest(EmbeddingRequest, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /pooling``: the same vectors in another form."""

    task: Annotated[Any, refused("embed")] = None


class Item(msgspec.Struct, frozen=True):
    """One embedding."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class PooledItem(msgspec.Struct, frozen=True):
    """One embedding, as `/pooling` has it."""

    index: int
    data: list[float] | str
    object: Literal["pooling"] = "pooling"


class EmbeddingResponse(msgspec.Struct, frozen=True):
    """All embeddings, each an `Item`, in the order of the input."""

    data: list[msgspec.Raw]
    model: str
    usage: dict[str, int]
    object: Literal["list"] = "list"


class PoolingResponse(EmbeddingResponse, frozen=True, kw_only=True):
    """All embeddings, each a `PooledItem`."""

    id: str
    created: int


_decoder = msgspec.json.Decoder(EmbeddingRequest)
_pooling_decoder = msgspec.json.Decoder(PoolingRequest)
_policies: FieldPolicies[EmbeddingRequest] = FieldPolicies(EmbeddingRequest)
_pooling_policies = FieldPolicies(PoolingRequest)

_INPUTS = FieldMap({})
_SINGLE_INPUT = FieldMap({"input[]": "input"})


async def embeddings(services: PipelineServices, http: HttpRequest) -> Response:
    """Answer an embedding request."""
    return await embed_body(services, http, await services.work.body(http))


async def embed_body(services: PipelineServices, http: HttpRequest, body: bytes) -> Response:
    """Answer an embedding request whose body is read."""
    return await _answer(services, http, body, decode_embeddings, _encode_response)


async def pooling(services: PipelineServices, http: HttpRequest) -> Response:
    """Answer an embedding request in the form of vLLM's pooling models."""
    body = await services.work.body(http)
    return await _answer(services, http, body, decode_pooling, _encode_pooling)


async def _answer(
    services: PipelineServices,
    http: HttpRequest,
    body: bytes,
    decode: Callable[[bytes, Ignored], EmbeddingRequest],
    encode_answer: Callable[[Embedded, Encoding], bytes],
) -> Response:
    request = await services.work.read(http, body, decode)
    with request.fields.translating():
        asked = request.embed_request(dimensions=request.dimensions)
        embedded = await services.pipeline.embed(http, asked)
    encode = partial(encode_answer, embedded, request.encoding)
    return Response(200, await work_on_vectors(services, http, embedded, encode), [JSON])


async def work_on_vectors(
    services: PipelineServices, http: HttpRequest, embedded: Embedded, work: Callable[[], _Result]
) -> _Result:
    """Return the result of `work`, done on a thread if the vectors are large."""
    if sum(map(len, embedded.vectors)) > _INLINE_BYTES:
        return await services.work.run(http, work)
    return work()


def decode_embeddings(body: bytes, ignored: Ignored) -> EmbeddingRequest:
    """Decode and check an embedding request; an error has the field at fault."""
    request = decode_request(_decoder, body, ignored)
    _policies.check(request, ignored)
    return _checked(request, ignored)


def decode_pooling(body: bytes, ignored: Ignored) -> PoolingRequest:
    """Decode and check a pooling request; an error has the field at fault."""
    request = decode_request(_pooling_decoder, body, ignored)
    _pooling_policies.check(request, ignored)
    return _checked(request, ignored)


def _checked(request: _Request, ignored: Ignored) -> _Request:
    check_input(request)
    _check_encoding(request, ignored)
    if request.use_activation is False:
        problem = "must be true or left out: the model's own vectors are final"
        raise unsupported("use_activation", problem)
    return request


def check_truncation(tokens: int | None) -> None:
    """Raise `InvalidRequestError` for a `truncate_prompt_tokens` of 0."""
    if tokens == 0:
        problem = "must be at least 1, or -1 for the model's limit, got 0"
        raise invalid("truncate_prompt_tokens", problem)


def check_input(request: EmbeddingRequest) -> None:
    """Raise `InvalidRequestError` for a missing input, a mixed one, or one of too many items."""
    check_truncation(request.truncate_prompt_tokens)
    given = request.input
    if given is None:
        raise invalid("input", "is required")
    if not isinstance(given, list):
        return
    if len({type(item) for item in given}) != 1:
        problem = "must be one kind: text, a list of texts, token ids, or a list of lists"
        raise invalid("input", problem)
    if not request.is_single and len(given) > MAX_INPUTS:
        raise invalid("input", f"must have at most {MAX_INPUTS} items, got {len(given)}")


def _check_encoding(request: EmbeddingRequest, ignored: Ignored) -> None:
    for name, allowed in (
        ("encoding_format", ("float", "base64")),
        ("embed_dtype", DTYPES),
        ("endianness", ("native", "little", "big")),
    ):
        value = getattr(request, name)
        if value is not None and value not in allowed:
            raise invalid(name, f"must be {' or '.join(map(repr, allowed))}, got {value[:80]!r}")
    encoding = request.encoding
    if not encoding.as_base64:  # they have no effect on JSON numbers
        if encoding.dtype != "float32":
            ignored.add("embed_dtype")
        if encoding.big_endian:
            ignored.add("endianness")


def truncation_of(tokens: int | None, side: Literal["left", "right"] | None) -> Truncation | None:
    """Return how texts that are too long are cut, from the fields of a request; None: not at all.

    By default vLLM keeps the first tokens for pooling models: many pool the very first one.
    """
    return None if tokens is None else Truncation(tokens, side or "right")


def usage_of(embedded: Embedded) -> dict[str, int]:
    """Return the `usage` of an answer: the tokens that were embedded."""
    return dict.fromkeys(("prompt_tokens", "total_tokens"), embedded.prompt_tokens)


def _encode_response(embedded: Embedded, encoding: Encoding) -> bytes:
    return msgspec.json.encode(EmbeddingResponse(**_fields(embedded, encoding, Item)))


def _encode_pooling(embedded: Embedded, encoding: Encoding) -> bytes:
    fields = _fields(embedded, encoding, PooledItem)
    fields |= {"id": new_id("pooling-"), "created": int(time.time())}
    return msgspec.json.encode(PoolingResponse(**fields))


def _fields(
    embedded: Embedded, encoding: Encoding, item: type[Item] | type[PooledItem]
) -> dict[str, Any]:
    # One call for each vector lets other threads run in between.
    items = [
        msgspec.Raw(msgspec.json.encode(item(index, encode_vector(vector, encoding))))
        for index, vector in enumerate(embedded.vectors)
    ]
    return {"data": items, "model": embedded.name, "usage": usage_of(embedded)}
