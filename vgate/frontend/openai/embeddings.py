"""Embedding requests and responses as OpenAI defines them."""

from __future__ import annotations

import base64
from array import array
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from vgate.frontend.openai.decoding import decode_request
from vgate.wire.sampling import TokenId

# OpenAI's limit (API reference, "Create embeddings").
MAX_INPUTS = 2048

_Text = Annotated[str, Meta(min_length=1)]
_Tokens = Annotated[list[TokenId], Meta(min_length=1)]
_List = Annotated[list[_Text | TokenId | _Tokens], Meta(min_length=1)]


class EmbeddingRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """``POST /v1/embeddings``."""

    model: Annotated[str, Meta(min_length=1)]
    input: _Text | _List
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    user: str | None = None


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
    """All embeddings, in the order of the input."""

    data: list[Item]
    model: str
    usage: EmbeddingUsage
    object: Literal["list"] = "list"


_decoder = msgspec.json.Decoder(EmbeddingRequest)


def decode_embeddings(body: bytes) -> EmbeddingRequest:
    """Decode and check an embedding request.

    Raises:
        InvalidRequestError: With the field at fault, what was sent and what is allowed.
    """
    return decode_request(_decoder, body)


def encode_response(
    vectors: list[bytes], model: str, prompt_tokens: int, *, as_base64: bool
) -> bytes:
    """Encode the response; vectors are float32, little-endian."""
    items = [
        Item(index, base64.b64encode(vector).decode() if as_base64 else array("f", vector).tolist())
        for index, vector in enumerate(vectors)
    ]
    usage = EmbeddingUsage(prompt_tokens, prompt_tokens)
    return msgspec.json.encode(EmbeddingResponse(items, model, usage))
