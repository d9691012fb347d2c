"""The messages between frontends and engines, one tagged union for each direction.

Read this first; change it last. The engine knows a request by its frontend's socket identity and
the frontend's number for it. Prompts travel as packed token ids (little-endian uint32): a list of
msgpack integers takes several times longer to decode.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from vgate.wire.kept import Claim, Claimed, Keep
from vgate.wire.kv_blocks import KvBlocks, WatchBlocks
from vgate.wire.logprobs import Logprobs
from vgate.wire.model_files import FileInfo
from vgate.wire.parameters import (
    NO_OPTIONS,
    Classes,
    Classify,
    GenerateOptions,
    SamplingParams,
    Task,
)
from vgate.wire.progress import AskProgress, Progress, Timing
from vgate.wire.stats import NO_LOAD, EngineStats, Gpu, Load

# Raised by one with every change that the other side would misread; exchanged at hello.
PROTOCOL_VERSION = 12

FinishReason = Literal["stop", "length"]


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True, gc=False):
    """Base of these messages: an array of the class name, which is the tag, and the fields."""


# ---- frontend to engine


class Hello(Message, frozen=True):
    """The first message of a connection. `protocol` comes first: any version can read it."""

    protocol: int
    name: str


class Generate(Message, frozen=True):
    """Generate one sequence.

    Attributes:
        id: The frontend's number for it, never used twice on a connection. `prompt` is packed.
        sampling: Complete: only the seed and max_tokens may be None.
        tenant, weight: The name of the API key, or "", and its share in fair scheduling.
        queue_timeout_s: Seconds that it may wait in the queue; then it fails.
        dedup_key: Digest of everything that shapes the sequence, or b"" for a sequence of its own.
            A request with the key of one in flight gets its tokens so far, then each new one.
        priority: Lower starts sooner, regardless of fairness between tenants.
        buffered: Send the first token, and all others at the end: its client reads none earlier.
        generated: Packed token ids of an engine that died: the sequence continues after them.
        resumed: It was admitted before: an engine died with it, or it waited for this one to start.
            A full queue doesn't reject it, and when it leaves the queue it gets a delta without
            tokens: if this engine dies too, its frontend knows whether it had a part in that.
        keep: Keep the sequence for a client that comes back; None: it ends with its subscribers.
    """

    id: int
    prompt: bytes
    sampling: SamplingParams
    tenant: str = ""
    weight: Annotated[float, Meta(gt=0)] = 1.0
    queue_timeout_s: Annotated[float, Meta(ge=0)] = 120.0
    dedup_key: bytes = b""
    options: GenerateOptions = NO_OPTIONS
    priority: int = 0
    buffered: bool = False
    generated: bytes = b""
    resumed: bool = False
    keep: Keep | None = None


class Embed(Message, frozen=True):
    """Embed one text, or `classify` it. `dimensions`: the vector's length; None for all of it."""

    id: int
    prompt: bytes
    dimensions: int | None = None
    tenant: str = ""
    weight: Annotated[float, Meta(gt=0)] = 1.0
    queue_timeout_s: Annotated[float, Meta(ge=0)] = 120.0
    resumed: bool = False
    cache_salt: str = ""
    classify: Classify | None = None


class Abort(Message, frozen=True):
    """Stop these; nothing more is sent for them. Unknown ids are ignored."""

    ids: list[int]


class Goodbye(Message, frozen=True):
    """The frontend disconnects; its requests are aborted."""


class FetchFile(Message, frozen=True):
    """Ask for the chunk of a `FileInfo` at an offset in bytes. Ask for one chunk at a time."""

    digest: bytes
    offset: Annotated[int, Meta(ge=0)]


Question = Claim | AskProgress | FetchFile | WatchBlocks
ToEngine = Hello | Generate | Embed | Abort | Goodbye | Question


# ---- engine to frontend


class ModelInfo(msgspec.Struct, frozen=True):
    """What a frontend must know about the model.

    Attributes:
        files: Tokenizer, chat template and generation defaults; `FetchFile` reads them.
        max_model_len: Most tokens of a prompt and its output together.
        created: Unix time at which the engine became ready.
        kv_block_tokens: Tokens in a block, the unit in which the KV cache is allocated.
        vocab_size: Token ids are below it; 0 if it is unknown.
        max_logprobs: Most tokens whose log probabilities a request may ask for at each position.
        fingerprint: Changes whenever a file of the model does, its weights included.
        classes: For the task "classify".
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
    classes: Classes | None = None

    @property
    def name(self) -> str:
        """The name that responses carry."""
        return self.names[0]


class Welcome(Message, frozen=True):
    """The answer to a hello of the same protocol version."""

    protocol: int
    model: ModelInfo


class Refused(Message, frozen=True):
    """The engine refuses this connection: another protocol version, or no hello before."""

    protocol: int
    reason: str


class FileChunk(Message, frozen=True):
    """The answer to `FetchFile`. `data` is empty at the file's end and for an unknown digest."""

    digest: bytes
    offset: int
    data: bytes


class Delta(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What is new of one sequence.

    Attributes:
        token_ids: New tokens, in order, including the stop token that ended it.
        finish_reason: Set in the last delta.
        cached_tokens: Prompt tokens found in the prefix cache; set in the first delta.
        coalesced: It shares another one's sequence. Set in its first delta, which may be empty.
        logprobs: One for each of `token_ids`, if the request asked for them.
        prompt_logprobs: The same for the prompt, with the first tokens; its first token has None.
        timing: Set in the delta of the sequence's first tokens, and in the last one.
    """

    id: int
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    coalesced: bool = False
    logprobs: list[Logprobs] | None = None
    prompt_logprobs: list[Logprobs | None] | None = None
    timing: Timing | None = None


class Step(Message, frozen=True):
    """One engine step's output for one frontend.

    Most sequences get one token and nothing else. These travel in two columns, `ids` and `tokens`,
    which cost less to encode and decode than a list of objects; all others are in `deltas`.
    `started` names the sequences that have left the queue, with the seconds that each was there.
    """

    ids: list[int] = msgspec.field(default_factory=list)
    tokens: list[int] = msgspec.field(default_factory=list)
    deltas: list[Delta] = msgspec.field(default_factory=list)
    started: list[tuple[int, float]] = msgspec.field(default_factory=list)


class Embedding(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The embedding of one text, or a number for each class: float32, little-endian."""

    id: int
    vector: bytes


class Embeddings(Message, frozen=True):
    """The embeddings that one engine step finished for one frontend."""

    embeddings: list[Embedding]


class Failure(msgspec.Struct, frozen=True, array_like=True):
    """The end of one request by an error, as facts that the frontend phrases for its client.

    Attributes:
        code: The code of one of the errors in `vgate.errors`.
        reason: Why, as a text that may follow the subject's name and a colon.
        retry_after_s: Seconds after which trying again makes sense, if that is known.
        subject: "model", "prompt", "constraint" or the field at fault; None if no part of it is.
    """

    id: int
    code: str
    reason: str
    retry_after_s: float | None = None
    subject: str | None = None


class Failures(Message, frozen=True):
    """Requests that ended in an error."""

    failures: list[Failure]


class Ending(Message, frozen=True):
    """The engine's process ends and sends nothing more. Frontends treat it as its death."""

    reason: str


class Status(Message, frozen=True):
    """The engine's heartbeat. Its loop sends it, so a step that hangs stops it.

    Attributes:
        running, waiting: Sequences in the batch, requests in the queue.
        kv_cache_usage: Fraction of the KV cache in use, 0 to 1.
        draining: The engine should get no more requests; it finishes the running ones.
        gpus: The GPUs that it runs on; empty if they aren't known.
        load: What the requests here will still take.
    """

    running: int
    waiting: int
    kv_cache_usage: float
    stats: EngineStats | None = None
    draining: bool = False
    gpus: list[Gpu] = []
    load: Load = NO_LOAD


Answer = FileChunk | Claimed | Progress
ToFrontend = Welcome | Refused | Answer | Step | Embeddings | Failures | Ending | Status | KvBlocks
