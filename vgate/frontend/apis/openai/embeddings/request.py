"""Embedding requests and responses as OpenAI and vLLM define them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from vgate.errors import InvalidValueError, UnsupportedParameterError
from vgate.frontend.apis.decoding import decode_request
from vgate.frontend.apis.fields import ACCEPTED, RefusedFields, refused
from vgate.frontend.apis.openai.embeddings.vectors import DTYPES, Encoding, encode_vector
from vgate.wire.sampling import TokenId

# OpenAI's limit (API reference, "Create embeddings").
MAX_INPUTS = 2048

_INT32_MAX = 2**31 - 1
_SHOWN_VALUE_CHARS = 80

_Text = Annotated[str, Meta(min_length=1)]
_Tokens = Annotated[list[TokenId], Meta(min_length=1)]
_List = Annotated[list[_Text | TokenId | _Tokens], Meta(min_length=1)]


class EmbeddingRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/embeddings``.

    Attributes:
        dimensions: Length of the vectors, for models that were trained to be cut.
        truncate_prompt_tokens: Most tokens of each input that are embedded; -1 for as many as the
            model takes. None refuses an input that is too long.
        truncation_side: Where what is too long is cut away.
        embed_dtype, endianness: How base64 packs the numbers.
        use_activation: True for vectors of length 1, whatever the model's own are.
    """

    model: Annotated[str, Meta(min_length=1)]
    input: _Text | _List | None = None
    encoding_format: str | None = None
    dimensions: Annotated[int, Meta(ge=1, le=_INT32_MAX)] | None = None
    user: Annotated[str | None, ACCEPTED] = None
    add_special_tokens: bool = True
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    embed_dtype: str | None = None
    endianness: str | None = None
    use_activation: bool | None = None

    messages: Annotated[Any, refused(instead="send the text as `input`")] = None
    add_generation_prompt: Annotated[Any, refused(False)] = None
    continue_final_message: Annotated[Any, refused(False)] = None
    chat_template: Annotated[Any, refused()] = None
    chat_template_kwargs: Annotated[Any, refused({})] = None
    media_io_kwargs: Annotated[Any, refused({})] = None
    mm_processor_kwargs: Annotated[Any, refused({})] = None
    normalize: Annotated[Any, refused(instead="use `use_activation`")] = None
    padding: Annotated[Any, refused("do_not_pad")] = None
    priority: Annotated[Any, refused(0)] = None
    cache_salt: Annotated[Any, refused()] = None
    request_id: Annotated[Any, refused(instead="send the header `x-request-id`")] = None

    @property
    def is_one(self) -> bool:
        """Whether the input is one text or one list of token ids."""
        given = self.input
        return isinstance(given, str) or (given is not None and isinstance(given[0], int))

    @property
    def inputs(self) -> list[str] | list[list[int]]:
        """The inputs: all texts, or all token ids."""
        return [self.input] if self.is_one else self.input  # type: ignore[return-value]

    @property
    def encoding(self) -> Encoding:
        """How the vectors are written."""
        return Encoding(
            as_base64=self.encoding_format == "base64",
            dtype=self.embed_dtype or "float32",
            big_endian=self.endianness == "big",
            unit_length=bool(self.use_activation),
        )


class Item(msgspec.Struct, frozen=True):
    """One embedding."""

    index: int
    embedding: list[float] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingUsage(msgspec.Struct, frozen=True):
    """Token counts."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingResponse(msgspec.Struct, frozen=True):
    """All embeddings, each an `Item`, in the order of the input."""

    data: list[msgspec.Raw]
    model: str
    usage: EmbeddingUsage
    object: Literal["list"] = "list"


_decoder = msgspec.json.Decoder(EmbeddingRequest)
_refused = RefusedFields(EmbeddingRequest)


def decode_embeddings(body: bytes) -> EmbeddingRequest:
    """Decode and check an embedding request.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    request = decode_request(_decoder, body)
    _refused.check(request)
    if request.input is None:
        message = "`input` is required"
        raise InvalidValueError(message, param="input")
    _check_input(request)
    _check_encoding(request)
    if request.use_activation is False:
        message = "`use_activation` must be true or left out: the model's own vectors are final"
        raise UnsupportedParameterError(message, param="use_activation")
    if request.truncate_prompt_tokens == 0:
        message = "`truncate_prompt_tokens` must be at least 1, or -1 for the model's limit, got 0"
        raise InvalidValueError(message, param="truncate_prompt_tokens")
    return request


def _check_input(request: EmbeddingRequest) -> None:
    given = request.input
    if not isinstance(given, list):
        return
    if len({type(item) for item in given}) != 1:
        message = "`input` must be one kind: text, a list of texts, token ids, or a list of lists"
        raise InvalidValueError(message, param="input")
    if not request.is_one and len(given) > MAX_INPUTS:
        message = f"`input` must have at most {MAX_INPUTS} items, got {len(given)}"
        raise InvalidValueError(message, param="input")


def _check_encoding(request: EmbeddingRequest) -> None:
    _check_choice("encoding_format", request.encoding_format, ("float", "base64"))
    _check_choice("embed_dtype", request.embed_dtype, DTYPES)
    _check_choice("endianness", request.endianness, ("native", "little", "big"))
    encoding = request.encoding
    if not encoding.as_base64 and (encoding.dtype != "float32" or encoding.big_endian):
        name = "endianness" if encoding.dtype == "float32" else "embed_dtype"
        message = f"`{name}` needs `encoding_format: base64`; it has no effect on JSON numbers"
        raise InvalidValueError(message, param=name)


def _check_choice(name: str, value: str | None, allowed: tuple[str, ...]) -> None:
    if value is not None and value not in allowed:
        names = " or ".join(map(repr, allowed))
        message = f"`{name}` must be {names}, got {value[:_SHOWN_VALUE_CHARS]!r}"
        raise InvalidValueError(message, param=name)


def encode_response(
    vectors: list[bytes], model: str, prompt_tokens: int, encoding: Encoding
) -> bytes:
    """Encode the response; vectors are float32, little-endian.

    One call for each vector: on a thread, others get to run in between.
    """
    items = [
        msgspec.Raw(msgspec.json.encode(Item(index, encode_vector(vector, encoding))))
        for index, vector in enumerate(vectors)
    ]
    usage = EmbeddingUsage(prompt_tokens, prompt_tokens)
    return msgspec.json.encode(EmbeddingResponse(items, model, usage))
