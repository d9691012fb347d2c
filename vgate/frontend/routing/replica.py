"""One replica as a router sees it: what it still has to compute."""

from dataclasses import dataclass, field
from zlib import crc32

from vgate.frontend.routing.breaker import Breaker
from vgate.wire.messages import Status

# Until a replica has measured how fast it computes prompts.
_USUAL_TOKENS_PER_S = 10_000.0
# Heartbeats come four times a second, but not within a step of the engine.
_SILENT_S = 3.0


@dataclass(slots=True, eq=False, repr=False)
class Replica:
    """One replica: its load, in tokens, and its place in the index of prefixes.

    Its load is that of this frontend's requests, which is known exactly, and of those of all
    others: what its last heartbeat told beyond this frontend's.

    Attributes:
        name: Tells it from the others, the same in all frontends.
        mark: A number of its name, the same in all frontends.
        bit: Its bit in the prefix index; 0 if it doesn't tell what it has.
        next_number: The number of its next `KvBlocks`; 0 if they are to begin anew.
        breaker: Whether it gets all the requests that it could.
        max_num_seqs: The sequences that it runs at once; those beyond wait.
        sequences: This frontend's, that have not ended.
        prefill_tokens, decode_tokens: What these will take.
        rate: Prompt tokens that it computes in a second.
    """

    name: str
    mark: int = field(init=False)
    bit: int = 0
    next_number: int = 0
    breaker: Breaker = field(default_factory=Breaker)
    max_num_seqs: int = 0
    sequences: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    rate: float = _USUAL_TOKENS_PER_S
    _others_sequences: int = 0
    _others_prefill: int = 0
    _others_decode: int = 0
    _heard: Status | None = None
    _heard_at: float = 0.0
    _is_news: bool = False

    def __post_init__(self) -> None:
        self.mark = crc32(self.name.encode())

    def hear(self, status: Status) -> None:
        """Take over the last heartbeat, unless that was done."""
        if status is self._heard:
            return
        self._heard, load, self._is_news = status, status.load, True
        self._others_sequences = max(0, status.running + status.waiting - self.sequences)
        self._others_prefill = max(0, load.prefill_tokens - self.prefill_tokens)
        self._others_decode = max(0, load.decode_tokens - self.decode_tokens)
        self.rate = load.prefill_tokens_per_s or self.rate

    def is_silent(self, now: float) -> bool:
        """Whether it hangs, or is in a long step: no heartbeat has come for a while."""
        if self._is_news:
            self._heard_at, self._is_news = now, False
        return self._heard is not None and now - self._heard_at >= _SILENT_S

    @property
    def to_prefill(self) -> int:
        """Prompt tokens of its requests that are neither cached nor computed."""
        return self.prefill_tokens + self._others_prefill

    @property
    def outstanding(self) -> int:
        """Tokens that its requests will take: prompts to compute, and output as expected."""
        return self.prefill_tokens + self._others_prefill + self.decode_tokens + self._others_decode

    @property
    def is_full(self) -> bool:
        """Whether another sequence would wait for one to end."""
        return 0 < self.max_num_seqs <= self.sequences + self._others_sequences
