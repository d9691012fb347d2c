"""The port between APIs and the pipeline."""

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from vgate.frontend.answers import ResponseEncoder
from vgate.frontend.http import HttpRequest, Ignored, LongWork, Response
from vgate.frontend.pipeline.generation import Generation, Truncation
from vgate.wire.parameters import GenerateOptions, SamplingParams, Task


class TokenTexts(Protocol):
    """The texts of single tokens, for log probabilities."""

    def text_of(self, token_id: int, /) -> str:
        """Return a token's text."""

    def bytes_of(self, token_id: int, /) -> bytes:
        """Return a token's bytes."""

    def byte_values_of(self, token_id: int, /) -> tuple[int, ...]:
        """Return a token's bytes as numbers."""

    def is_special(self, token_id: int, /) -> bool:
        """Return whether a token is left out where special tokens are."""


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A generation that is checked, tokenised and complete, as an encoder may read it.

    Attributes:
        name: The name that the answer carries: the model's first, an adapter's or an alias'.
        created: Unix time at which the job was made, in seconds.
        asked_id: The id that the client chose for the HTTP request; "" if it chose none.
        prompts: Token ids of each prompt.
        sampling, options: Complete parameters.
        reasons: Whether reasoning is split off the answer.
        logprobs_of_content: Whether the answer's log probabilities are those of its content alone.
    """

    name: str
    created: int
    asked_id: str = ""
    prompts: list[list[int]]
    sampling: SamplingParams
    options: GenerateOptions
    token_texts: TokenTexts
    reasons: bool
    logprobs_of_content: bool = False

    def prompt_text(self, index: int) -> str:
        """Return a prompt's text, as it was sent where that is possible."""
        raise NotImplementedError


class GenerateRequest(msgspec.Struct, frozen=True):
    """What a client asks to be generated, as an API reads it from a body.

    Attributes:
        encoder_of: Returns the encoder of the answer to a job. It may be called again, and
            from any thread.
        stream: Whether the answer is streamed.
    """

    generation: Generation
    encoder_of: Callable[[Job], ResponseEncoder]
    stream: bool


# Makes a request of a body.
Read = Callable[[bytes, Ignored], GenerateRequest]


class Traits(msgspec.Struct, frozen=True):
    """What an API may have to know of a model before it can translate a request.

    Attributes:
        sets_effort: Whether the chat template has a variable for the reasoning effort.
        reasons: Whether the model writes reasoning.
        always_reasons: Whether it does so at every effort.
    """

    sets_effort: bool
    reasons: bool
    always_reasons: bool = False


class EmbedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What a client asks to be embedded, classified or scored. Errors name an input `input[0]`.

    Attributes:
        model: The served name that the client used.
        inputs: All texts, or all token ids.
        add_special_tokens: Whether the tokenizer adds its special tokens to texts.
        truncation: How an input that is too long is cut; None refuses it.
        text_limits: For each text, the most tokens of it that are used, not counting the special
            tokens that are added; None for all. Empty if no text has a limit of its own.
        dimensions: Length of the vectors; None for the model's own.
        tasks: The tasks that the model may have.
        first_count: To score pairs: how many inputs, all texts, are of the first side. A model that
            classifies reads each pair at once; a single first text is in each of them.
        activation: Whether classes get probabilities; otherwise the outputs that these are made of.
        template_kwargs: Variables for the chat template that renders pairs, if one is configured.
    """

    model: str
    inputs: list[str] | list[list[int]]
    add_special_tokens: bool = True
    truncation: Truncation | None = None
    text_limits: list[int | None] = []
    dimensions: int | None = None
    tasks: tuple[Task, ...] = ("embed",)
    first_count: int = 0
    activation: bool = True
    template_kwargs: dict[str, Any] = {}


class Embedded(msgspec.Struct, frozen=True):
    """The vectors of an embed request, float32 and little-endian, in the order of its inputs.

    Attributes:
        name: The name that the answer carries.
        prompt_tokens: Tokens of all inputs.
        vectors: Of a model that classifies: a number for each class, of each input or pair.
        labels: The name of each class, if it has one; None of a model that embeds.
        templated: Whether a chat template has rendered the pairs.
    """

    name: str
    prompt_tokens: int
    vectors: list[bytes]
    labels: list[str | None] | None = None
    templated: bool = False


class Tokens(msgspec.Struct, frozen=True):
    """A tokenised prompt.

    Attributes:
        spellings: How the vocabulary spells each token, if that was asked for.
        max_model_len: The most tokens that the model takes.
    """

    ids: list[int]
    spellings: list[str | None] | None
    max_model_len: int


class TokenizerInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a client needs to make a model's prompts by itself.

    Attributes:
        tokenizer_class: transformers' name of the tokenizer's class.
        model_max_length: The most tokens that the model takes.
        chat_template: Its source.
    """

    model_max_length: int
    tokenizer_class: str | None = None
    chat_template: str | None = None
    bos_token: str | None = None
    eos_token: str | None = None
    unk_token: str | None = None
    pad_token: str | None = None
    sep_token: str | None = None


class Pipeline(Protocol):
    """Answers requests. Every method may raise `VGateError`."""

    async def answer(self, http: HttpRequest, request: GenerateRequest) -> Response | None:
        """Answer a request; None if the answer was streamed.

        Raises:
            ClientDisconnected: The client is gone.
            VGateError: There is no answer, and nothing was sent.
        """

    async def answer_body(self, http: HttpRequest, body: bytes, read: Read) -> Response | None:
        """Answer the request that `read` makes of a body; as `answer` in all else.

        `read` must depend on the body alone: it isn't called again for a body that repeats.
        """

    async def take_up(self, http: HttpRequest, stream: str, received: tuple[int, ...]) -> None:
        """Let a request go on with the stream that its client has lost; then answer it as ever.

        Args:
            http: The request.
            stream: The id of the stream, or of its response.
            received: How many events of each choice the client has; empty if it has none.

        Raises:
            StreamNotFoundError: There is no such stream of this path and key.
        """

    async def count_tokens(self, http: HttpRequest, generation: Generation) -> int:
        """Return how many tokens a generation's only prompt has, and generate nothing."""

    async def embed(self, http: HttpRequest, request: EmbedRequest) -> Embedded:
        """Embed texts, or classify them or pairs of them.

        Raises:
            ClientDisconnected: The client is gone.
        """

    async def tokenize(
        self,
        http: HttpRequest,
        model: str,
        prompt: str | Generation,
        *,
        add_special_tokens: bool,
        spell: bool,
    ) -> Tokens:
        """Return the tokens of a text, or of a generation's conversation.

        `add_special_tokens` adds the tokenizer's special tokens; `spell` adds the spellings.
        """

    async def detokenize(self, http: HttpRequest, model: str, tokens: list[int]) -> str:
        """Return the text of token ids, special tokens included."""

    async def tokenizer_info(self, http: HttpRequest, model: str) -> TokenizerInfo:
        """Return a model's special tokens and chat template."""

    async def traits(self, http: HttpRequest, model: str, *, with_tools: bool) -> Traits:
        """Return a model's traits; with tools it may have another template."""


class RequestInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A running request, as admins see it.

    Attributes:
        id: Its `X-Request-ID`, which its client may have chosen.
        key: The name of its API key; "" without one.
        model, served_model: The name that it asks for, and the one of its answer.
        api: The path.
        state: Waiting in the engine's queue, or running.
        age_s: Seconds since its arrival.
        cached_tokens: Prompt tokens found in the prefix cache; 0 before the first token.
        completion_tokens: Those generated so far.
        ttft_s: Seconds to the first token; None before it.
        client: The client's address.
        worker: The frontend that serves it, as in the log.
    """

    id: str
    key: str
    model: str
    served_model: str
    api: str
    state: str
    age_s: float
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    ttft_s: float | None
    stream: bool
    client: str
    worker: str


class AllRequests(msgspec.Struct, frozen=True):
    """What the workers have told.

    Attributes:
        requests: The oldest requests of all workers, the oldest first.
        count: How many requests there are, or were ended.
        silent: The workers that did not answer in time.
    """

    requests: list[RequestInfo]
    count: int
    silent: list[str]


class Workers(Protocol):
    """All workers of the instance. One that is stopped is left out after half a second."""

    async def requests(self) -> AllRequests:
        """Return the running requests of all workers."""

    async def cancel(self, request_id: str, by: str) -> AllRequests:
        """End the requests with this id by an error; `by` is for the log."""


class PipelineServices(msgspec.Struct, frozen=True, kw_only=True):
    """The services of endpoints that need nothing but the pipeline."""

    pipeline: Pipeline
    work: LongWork
