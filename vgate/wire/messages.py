"""The messages between frontends and engines. Read this first; change it last.

One tagged union a direction. A frontend numbers its own requests; the engine knows a request by
the frontend's socket identity and that number. Token ids of a prompt travel packed (little-endian
uint32), because a list of msgpack integers costs several times more to decode.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from vgate.wire.file_messages import FetchFile, FileChunk, FileInfo
from vgate.wire.message import Message
from vgate.wire.sampling import SamplingParams, TokenId

# Raised by one with every change that the other side would misread; exchanged at hello.
PROTOCOL_VERSION = 5

FinishReason = Literal["stop", "length"]
Task = Literal["generate", "embed"]


# ---- frontend to engine


class Hello(Message, frozen=True):
    """The first message of a connection.

    Attributes:
        protocol: The sender's PROTOCOL_VERSION. First, so that any version can read it.
        name: Who connects, for the log.
    """

    protocol: int
    name: str


class StructuredOutput(msgspec.Struct, frozen=True, array_like=True):
    """A form that the generated text must have.

    Attributes:
        kind: How `value` describes it; the names are those of vLLM's StructuredOutputsParams.
        value: A JSON schema as text, a regular expression, the choices, a grammar (EBNF) or a
            structural tag (JSON as text); "" for any JSON object.
        disable_any_whitespace: For JSON: the shortest form only.
        field: What in the request demands it, for errors.
    """

    kind: Literal["json", "json_object", "regex", "choice", "grammar", "structural_tag"]
    value: str | list[str] = ""
    disable_any_whitespace: bool = False
    field: str = "response_format"


class GenerateOptions(msgspec.Struct, frozen=True, array_like=True):
    """What shapes a sequence or what is told of it, beside the sampling parameters.

    Attributes:
        logprobs: For each generated token its log probability and those of so many most likely
            tokens at its place; None for none at all.
        prompt_logprobs: The same for the prompt's tokens.
        bad_words: Token sequences that are never generated.
        structured: The form of the text.
        adapter: Name of the LoRA adapter; "" for the model itself.
        cache_salt: Prefix-cache entries are shared only between requests with the same one.
    """

    logprobs: Annotated[int, Meta(ge=0)] | None = None
    prompt_logprobs: Annotated[int, Meta(ge=0)] | None = None
    bad_words: list[list[TokenId]] = []
    structured: StructuredOutput | None = None
    adapter: str = ""
    cache_salt: str = ""


NO_OPTIONS = GenerateOptions()


class Generate(Message, frozen=True):
    """Generate one sequence.

    Attributes:
        id: The frontend's number for it, never used twice on a connection.
        prompt: Token ids, packed.
        sampling: Complete: nothing in it is "not given" but the seed and max_tokens.
        tenant: Who it is for, in the scheduler's sense: the name of an API key, or "".
        weight: The tenant's share in fair scheduling.
        queue_timeout_s: How long it may wait to be started; then it fails.
        share: Digest of everything that shapes the sequence, or b"" to have it alone. A request
            whose digest is in flight already joins that one: it gets what was generated so far at
            once and then follows.
        options: What else shapes it.
        priority: Lower starts sooner, before what is fair between tenants.
        whole: Tell the first token and then nothing until the end, when all the rest comes: nobody
            looks at what is between.
        generated: Token ids, packed, that an engine generated of it before it died. They count as
            generated, are not told again, and the sequence goes on after them.
        resumed: An engine that died had taken it, so a full queue doesn't refuse it.
    """

    id: int
    prompt: bytes
    sampling: SamplingParams
    tenant: str = ""
    weight: Annotated[float, Meta(gt=0)] = 1.0
    queue_timeout_s: Annotated[float, Meta(ge=0)] = 120.0
    share: bytes = b""
    options: GenerateOptions = NO_OPTIONS
    priority: int = 0
    whole: bool = False
    generated: bytes = b""
    resumed: bool = False


class Embed(Message, frozen=True):
    """Embed one text. As `Generate`, for a pooling model.

    Attributes:
        dimensions: Length of the vector, for models trained so that a vector can be cut; None for
            the model's own.
    """

    id: int
    prompt: bytes
    dimensions: int | None = None
    tenant: str = ""
    weight: Annotated[float, Meta(gt=0)] = 1.0
    queue_timeout_s: Annotated[float, Meta(ge=0)] = 120.0
    resumed: bool = False


class Abort(Message, frozen=True):
    """Stop these; nothing more is sent for them. Unknown ids are ignored."""

    ids: list[int]


class Goodbye(Message, frozen=True):
    """The frontend leaves; everything of its own that still runs is aborted."""


ToEngine = Hello | Generate | Embed | Abort | Goodbye | FetchFile


# ---- engine to frontend


class ModelInfo(msgspec.Struct, frozen=True):
    """What a frontend must know of the model.

    Attributes:
        names: Served names; answers carry the first.
        files: Tokenizer, chat template and generation defaults; `FetchFile` reads them.
        max_model_len: Most tokens of prompt and answer together.
        max_num_seqs: Most sequences that run at once.
        kv_cache_tokens: Tokens that the KV cache holds.
        created: Unix time at which the engine became ready.
        backend: Name of the engine backend.
        task: What the model is for.
        kv_block_tokens: Tokens of a block, in which the KV cache is given out.
        vocab_size: Token ids are below it; 0 if that isn't known.
        max_logprobs: Most likely tokens that a request may ask for at each place.
        fingerprint: Changes whenever one of the model's files does, also of its weights.
    """

    names: list[str]
    files: list[FileInfo]
    max_model_len: int
    max_num_seqs: int
    kv_cache_tokens: int
    created: int
    backend: str
    task: Task = "generate"
    kv_block_tokens: int = 1
    vocab_size: int = 0
    max_logprobs: int = 20
    fingerprint: str = ""


class Welcome(Message, frozen=True):
    """The answer to a hello of the same protocol version."""

    protocol: int
    model: ModelInfo


class Refused(Message, frozen=True):
    """The engine does not talk to this connection: another version, or no hello before."""

    protocol: int
    reason: str


class Logprobs(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Log probabilities at one place of a sequence.

    Attributes:
        token_ids: The token that is there, and then the most likely ones in their order. The
            former may be among the latter again.
        logprobs: Of each of them, natural logarithms.
        rank: Of the token that is there, the most likely one's being 1.
    """

    token_ids: list[int]
    logprobs: list[float]
    rank: int


class Delta(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one step brought for one request.

    Attributes:
        id: The frontend's number.
        token_ids: New tokens, in order. The stop token is among them where one ended it.
        finish_reason: Set in the last delta.
        cached_tokens: Prompt tokens found in the prefix cache; told in the first delta.
        joined: This request shares a sequence that another one began; told in the first delta,
            which comes at once and may hold no tokens yet.
        logprobs: One for each of `token_ids`, if they were asked for.
        prompt_logprobs: One for each token of the prompt, if they were asked for; told in the
            first delta with tokens. Nothing precedes the first token, so it has None.
    """

    id: int
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    joined: bool = False
    logprobs: list[Logprobs] | None = None
    prompt_logprobs: list[Logprobs | None] | None = None


class Embedding(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The embedding of one text: `vector` is float32, little-endian."""

    id: int
    vector: bytes


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """The end of one request by an error; `vgate.errors.from_code` makes it one again."""

    id: int
    code: str
    message: str
    retry_after_s: float | None = None
    param: str | None = None


class Step(Message, frozen=True):
    """All that one engine step brought for one frontend.

    Nearly always that is one token for a sequence and nothing else. Such come in two columns, which
    cost less to make and to read than a list of objects does.

    Attributes:
        ids: The frontend's numbers of the sequences that got one token and nothing else.
        tokens: Those tokens, in the same order.
        deltas: What came for all others.
    """

    ids: list[int] = msgspec.field(default_factory=list)
    tokens: list[int] = msgspec.field(default_factory=list)
    deltas: list[Delta] = msgspec.field(default_factory=list)


class Embeddings(Message, frozen=True):
    """The embeddings that one engine step finished for one frontend."""

    embeddings: list[Embedding]


class Failures(Message, frozen=True):
    """Requests that ended in an error."""

    failures: list[Failure]


class Ending(Message, frozen=True):
    """The engine's process ends, and nothing more comes from it: the same as its death."""

    reason: str


class Histogram(msgspec.Struct, frozen=True, array_like=True):
    """Observations since the engine's start; bucket bounds are in `vgate.wire.buckets`.

    Attributes:
        counts: Observations in each bucket, the last one without an upper bound.
        total: Sum of what was observed.
    """

    counts: list[int]
    total: float


class EngineStats(msgspec.Struct, frozen=True, array_like=True):
    """What an engine has done since its start.

    Attributes:
        batch_size: Sequences in each step.
        step_s: Seconds that each step took.
        inter_token_s: Seconds between two tokens of a sequence: a step's time, once for each
            sequence in it.
        queue_s: Seconds that requests waited to be started.
        preemptions: Sequences that lost their KV cache to others and were computed again.
        prefix_cache_queries, prefix_cache_hits: Prompt tokens looked up and found.
    """

    batch_size: Histogram
    step_s: Histogram
    inter_token_s: Histogram
    queue_s: Histogram
    preemptions: int
    prefix_cache_queries: int
    prefix_cache_hits: int


class Status(Message, frozen=True):
    """The engine's heartbeat, sent by its loop: a hung step stops it.

    Attributes:
        running: Sequences in the batch.
        waiting: Requests in the scheduler's queue.
        kv_cache_usage: Share of the KV cache in use, 0 to 1.
        stats: What it has done.
        draining: It finishes its requests and then ends, and wants no more.
    """

    running: int
    waiting: int
    kv_cache_usage: float
    stats: EngineStats | None = None
    draining: bool = False


ToFrontend = Welcome | Refused | FileChunk | Step | Embeddings | Failures | Ending | Status
