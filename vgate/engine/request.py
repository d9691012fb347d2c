"""A request inside the engine process."""

from __future__ import annotations

from vgate.wire.sampling import SamplingParams


def request_key(peer: bytes, number: int) -> str:
    """Return the name by which the backend knows a frontend's request."""
    return f"{peer.hex()}.{number}"


class Request:
    """One sequence from its arrival to its end.

    Attributes:
        key: Unique name inside this engine; the backend knows the request by it.
        peer: Socket identity of the frontend that asked.
        id: The frontend's number for it.
        prompt: Token ids.
        sampling: Complete parameters, `max_tokens` included.
        tenant, weight: Whose it is, for fair scheduling.
        arrived: Monotonic time of arrival, seconds.
        queue_deadline: Monotonic time at which waiting ends in an error.
        reserved_tokens: KV tokens that the scheduler counts for it while it runs.
        generated_tokens: Output tokens so far.
    """

    __slots__ = (
        "arrived",
        "generated_tokens",
        "id",
        "key",
        "peer",
        "prompt",
        "queue_deadline",
        "reserved_tokens",
        "sampling",
        "tenant",
        "weight",
    )

    def __init__(
        self,
        peer: bytes,
        number: int,
        prompt: list[int],
        sampling: SamplingParams,
    ) -> None:
        self.key = request_key(peer, number)
        self.peer = peer
        self.id = number
        self.prompt = prompt
        self.sampling = sampling
        self.tenant = ""
        self.weight = 1.0
        self.arrived = 0.0
        self.queue_deadline = float("inf")
        self.reserved_tokens = 0
        self.generated_tokens = 0

    @property
    def max_tokens(self) -> int:
        """Most tokens it may generate."""
        return self.sampling.max_tokens or 1

    @property
    def kv_tokens(self) -> int:
        """Tokens whose keys and values it holds while it runs."""
        return len(self.prompt) + self.generated_tokens
