"""One replica as a router sees it: what it still has to compute."""

from zlib import crc32

from vgate.frontend.routing.breaker import Breaker
from vgate.wire.messages import Status

# Until a replica has measured how fast it computes prompts.
_USUAL_TOKENS_PER_S = 10_000.0
# Heartbeats come four times a second, but not within a step of the engine.
_SILENT_S = 3.0


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

    __slots__ = (
        "_heard",
        "_heard_at",
        "_is_news",
        "_others_decode",
        "_others_prefill",
        "_others_sequences",
        "bit",
        "breaker",
        "decode_tokens",
        "mark",
        "max_num_seqs",
        "name",
        "next_number",
        "prefill_tokens",
        "rate",
        "sequences",
    )

    def __init__(self, name: str) -> None:
        self.name = name
        self.mark = crc32(name.encode())
        self.bit = 0
        self.next_number = 0
        self.breaker = Breaker()
        self.max_num_seqs = 0
        self.sequences = self.prefill_tokens = self.decode_tokens = 0
        self._others_sequences = self._others_prefill = self._others_decode = 0
        self.rate = _USUAL_TOKENS_PER_S
        self._heard: Status | None = None
        self._heard_at = 0.0
        self._is_news = False

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
