"""The messages between frontends and engines. Read this first; change it last.

One tagged union a direction. A frontend numbers its own requests; the engine knows a request by
the frontend's socket identity and that number. Token ids of a prompt travel packed (little-endian
uint32), because a list of msgpack integers costs several times more to decode.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from vgate.wire.sampling import SamplingParams

# Raised by one with every change that the other side would misread; exchanged at hello.
PROTOCOL_VERSION = 1

FinishReason = Literal["stop", "length"]


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Base of all messages; its class name is the tag, its fields travel as an array."""


# ---- frontend to engine


class Hello(Message, frozen=True):
    """The first message of a connection.

    Attributes:
        protocol: The sender's PROTOCOL_VERSION. First, so that any version can read it.
        name: Who connects, for the log.
    """

    protocol: int
    name: str


class Generate(Message, frozen=True):
    """Generate one sequence.

    Attributes:
        id: The frontend's number for it, never used twice on a connection.
        prompt: Token ids, packed.
        sampling: Complete: nothing in it is "not given" but the seed and max_tokens.
        tenant: Who it is for, in the scheduler's sense: the name of an API key, or "".
        weight: The tenant's share in fair scheduling.
        queue_timeout_s: How long it may wait to be started; then it fails.
    """

    id: int
    prompt: bytes
    sampling: SamplingParams
    tenant: str = ""
    weight: Annotated[float, Meta(gt=0)] = 1.0
    queue_timeout_s: Annotated[float, Meta(ge=0)] = 120.0


class Abort(Message, frozen=True):
    """Stop these; nothing more is sent for them. Unknown ids are ignored."""

    ids: list[int]


class Goodbye(Message, frozen=True):
    """The frontend leaves; everything of its own that still runs is aborted."""


ToEngine = Hello | Generate | Abort | Goodbye


# ---- engine to frontend


class ModelInfo(msgspec.Struct, frozen=True):
    """What a frontend must know of the model.

    Attributes:
        names: Served names; answers carry the first.
        directory: Local directory with tokenizer.json, chat template and generation_config.json;
            None for the dry-run engine's built-in vocabulary.
        max_model_len: Most tokens of prompt and answer together.
        max_num_seqs: Most sequences that run at once.
        kv_cache_tokens: Tokens that the KV cache holds.
        created: Unix time at which the engine became ready.
        backend: Name of the engine backend.
        kv_block_tokens: Tokens of a block, in which the KV cache is given out.
    """

    names: list[str]
    directory: str | None
    max_model_len: int
    max_num_seqs: int
    kv_cache_tokens: int
    created: int
    backend: str
    kv_block_tokens: int = 1


class Welcome(Message, frozen=True):
    """The answer to a hello of the same protocol version."""

    protocol: int
    model: ModelInfo


class Refused(Message, frozen=True):
    """The engine does not talk to this connection: another version, or no hello before."""

    protocol: int
    reason: str


class Delta(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one step brought for one request.

    Attributes:
        id: The frontend's number.
        token_ids: New tokens, in order. The stop token is among them where one ended it.
        finish_reason: Set in the last delta.
        cached_tokens: Prompt tokens found in the prefix cache; told in the first delta.
    """

    id: int
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """The end of one request by an error; `vgate.errors.from_code` makes it one again."""

    id: int
    code: str
    message: str
    retry_after_s: float | None = None


class Step(Message, frozen=True):
    """All that one engine step brought for one frontend."""

    deltas: list[Delta]


class Failures(Message, frozen=True):
    """Requests that ended in an error."""

    failures: list[Failure]


class Status(Message, frozen=True):
    """The engine's heartbeat, sent by its loop: a hung step stops it.

    Attributes:
        running: Sequences in the batch.
        waiting: Requests in the scheduler's queue.
        kv_cache_usage: Share of the KV cache in use, 0 to 1.
    """

    running: int
    waiting: int
    kv_cache_usage: float


ToFrontend = Welcome | Refused | Step | Failures | Status
