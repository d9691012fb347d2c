"""A request inside the engine process, and why one fails."""

from __future__ import annotations

from typing import Literal

from vgate.wire.messages import NO_OPTIONS, GenerateOptions, Logprobs
from vgate.wire.sampling import SamplingParams

# What kind of failure it is: the codes of `vgate.errors` that an engine has a use for.
Code = Literal[
    "invalid_value",
    "unsupported_parameter",
    "context_length_exceeded",
    "model_not_found",
    "overloaded",
    "queue_timeout",
    "engine_unavailable",
    "internal_error",
]


class RequestError(Exception):
    """A request fails. Frontends phrase it for their clients; the engine only states the facts.

    Args:
        code: What kind of failure it is.
        reason: Why, as a text that may stand after the subject's name and a colon.
        subject: What is at fault: "model", "prompt", "constraint", or a field of `SamplingParams`,
            `GenerateOptions` or `Embed`. None if nothing in the request is.
        retry_after_s: Seconds after which trying again makes sense, if that is known.
    """

    def __init__(
        self,
        code: Code,
        reason: str,
        subject: str | None = None,
        *,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(reason)
        self.code = code
        self.reason = reason
        self.subject = subject
        self.retry_after_s = retry_after_s


class Request:
    """One sequence or embedding from its arrival to its end.

    Args:
        key: Unique name inside this engine; the backend knows the request by it.
        prompt: Token ids.
        sampling: Complete parameters, `max_tokens` included; None for an embedding.

    Attributes:
        options: What else shapes the sequence, or is told of it.
        dimensions: Length of the embedding, if it is not the model's own.
        tenant, weight: Whose it is, for fair scheduling.
        priority: Lower starts sooner.
        order: Its place among the requests of its tenant and priority; set by the scheduler.
        dedup_key: Digest under which identical requests join this one; b"" for none.
        subscribers: Who waits for it: frontends' socket identities and numbers.
        delivered: Those of them who want it whole, and how many tokens they have been told.
        arrived: Monotonic time of arrival, seconds.
        queue_deadline: Monotonic time at which waiting ends in an error.
        reserved_tokens: KV tokens that the scheduler counts for it while it runs.
        continued: Its first output tokens, where another engine generated them and died.
        resumed: Another engine had taken it.
        generated_tokens: Output tokens so far, with the `continued` ones.
        output: The output so far of this engine, kept for those who may still join.
        output_logprobs, prompt_logprobs: As `output`; None if they were not asked for, or are not
            there yet.
        cached_tokens: Prompt tokens that the prefix cache had.
    """

    __slots__ = (
        "arrived",
        "cached_tokens",
        "continued",
        "dedup_key",
        "delivered",
        "dimensions",
        "generated_tokens",
        "key",
        "options",
        "order",
        "output",
        "output_logprobs",
        "priority",
        "prompt",
        "prompt_logprobs",
        "queue_deadline",
        "reserved_tokens",
        "resumed",
        "sampling",
        "subscribers",
        "tenant",
        "weight",
    )

    def __init__(self, key: str, prompt: list[int], sampling: SamplingParams | None) -> None:
        self.key = key
        self.prompt = prompt
        self.sampling = sampling
        self.options: GenerateOptions = NO_OPTIONS
        self.dimensions: int | None = None
        self.tenant = ""
        self.weight = 1.0
        self.priority = 0
        self.order = 0
        self.dedup_key = b""
        self.subscribers: list[tuple[bytes, int]] = []
        self.delivered: dict[tuple[bytes, int], int] = {}
        self.arrived = 0.0
        self.queue_deadline = float("inf")
        self.reserved_tokens = 0
        self.continued: list[int] = []
        self.resumed = False
        self.generated_tokens = 0
        self.output: list[int] = []
        self.output_logprobs: list[Logprobs] | None = None
        self.prompt_logprobs: list[Logprobs | None] | None = None
        self.cached_tokens = 0

    @property
    def max_tokens(self) -> int:
        """Most tokens it may generate."""
        return 0 if self.sampling is None else self.sampling.max_tokens or 1
