"""Which requests outlive their engine, from where they go on in another one, and who waits for it.

A sequence starts again if none of its output was sent, which is always exact. Otherwise it
continues after the tokens so far, if the next tokens depend only on the tokens before them and not
on where the prompt ends. Otherwise it is generated again from its beginning and compared with what
was sent (`replay`), if it isn't a matter of chance. All other sequences end with an error.
"""

import msgspec

from vgate.frontend.engines.replay import Replay
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.engines.suspects import Suspects
from vgate.wire.codec import pack_token_ids
from vgate.wire.messages import NO_OPTIONS, Embed, Generate, GenerateOptions, ModelInfo
from vgate.wire.sampling import DEFAULTS, SamplingParams

# A request that kills its engine would kill every engine that continues it.
_MOST_DEATHS = 2
# Of the prompts of requests that a worker holds.
_MOST_HELD_BYTES = 64 * 1024 * 1024


def obstacle(sampling: SamplingParams, options: GenerateOptions) -> str | None:
    """Return a parameter that prevents an exact continuation; None if there is none."""
    for given, neutral in ((sampling, DEFAULTS), (options, NO_OPTIONS)):
        for name in given.__struct_fields__:
            value = getattr(given, name)
            if name in given.RESUMABLE or value is None or value == getattr(neutral, name):
                continue
            if name == "seed" and sampling.temperature == 0:
                continue  # it isn't used
            return name
    return None


def is_repeatable(sampling: SamplingParams) -> bool:
    """Whether a sequence that starts again gets the same tokens."""
    return sampling.temperature == 0 or sampling.seed is not None


def resubmission(sequence: Sequence, number: int) -> Generate | Embed:
    """Return the request for another engine: from the start, or after the tokens so far."""
    message = sequence.message
    assert message is not None
    if isinstance(message, Generate) and message.keep is not None and sequence.generated:
        # What was joined has died, and its reader is the one that goes on with it.
        keep = msgspec.structs.replace(message.keep, joins=False)
        message = msgspec.structs.replace(message, keep=keep)
    replayed = isinstance(sequence.answer, Replay)
    if isinstance(message, Embed) or replayed or not sequence.generated:
        return msgspec.structs.replace(message, id=number, resumed=True)
    return msgspec.structs.replace(
        message,
        id=number,
        resumed=True,
        generated=pack_token_ids(sequence.generated),
        # A request that starts now would get other tokens first.
        dedup_key=b"",
    )


class Survivors:
    """The sequences that wait for an engine: those of a dead one, and held ones, which are new.

    A sequence ends exactly once. It is in the table of an engine's handle, or it waits here, or it
    has ended; and it is removed from its table before it ends. The connection to the dead engine is
    closed before its sequences wait here, and they leave with a new id for another connection. So
    neither a late message of the old engine nor an abort with the old id can reach them.

    Args:
        enabled: Whether sequences outlive their engine.
        continued: Whether a sequence may continue after some of its output was sent.
        hold_s: How long a new sequence may wait for an engine; 0: it doesn't.
        most_held: How many new sequences may wait.
        suspects: Remembers the requests that engines died with; None: nothing does.

    Attributes:
        waiting: The sequences by their last id.
    """

    def __init__(
        self,
        *,
        enabled: bool,
        continued: bool = True,
        hold_s: float = 0.0,
        most_held: int = 0,
        suspects: Suspects | None = None,
    ) -> None:
        self._enabled = enabled
        self._continued = continued
        self._hold_s = hold_s
        self._most_held = most_held
        self._suspects = suspects
        self.waiting: dict[int, Sequence] = {}
        # Until when the new ones among them are held.
        self._held: dict[int, float] = {}

    def deaths_of(self, message: Generate | Embed) -> int:
        """Return how many engines died while they ran such a request before; usually 0.

        Raises:
            EngineUnavailableError: Too many.
        """
        return self._suspects.check(message) if self._suspects else 0

    @property
    def has_room(self) -> bool:
        """Whether `hold` takes a sequence."""
        if not self._hold_s or len(self._held) >= self._most_held:
            return False
        messages = (self.waiting[number].message for number in self._held)
        return sum(len(m.prompt) for m in messages if m) < _MOST_HELD_BYTES

    def hold(self, sequence: Sequence, now: float) -> None:
        """Let a new sequence wait, with its message and deadline. Call it only if there is room."""
        self.waiting[sequence.id] = sequence
        self._held[sequence.id] = now + self._hold_s

    def held_too_long(self, now: float) -> list[Sequence]:
        """Remove and return the new sequences that no engine came for in time."""
        late = [self.waiting[number] for number, until in self._held.items() if until <= now]
        self.discard(late)
        return late

    def keep(self, lost: list[Sequence]) -> list[Sequence]:
        """Add the sequences of a dead engine; return those that can't continue."""
        ended = []
        for sequence in lost:
            # One that its engine had not begun has no part in the death.
            sequence.deaths += sequence.started
            if self._continues(sequence):
                self.waiting[sequence.id] = sequence
            else:
                ended.append(sequence)
        if self._suspects:
            self._suspects.on_death()
            for sequence in ended:
                if sequence.message and sequence.deaths >= _MOST_DEATHS:
                    self._suspects.report(sequence.message, sequence.deaths)
        return ended

    def take(self) -> list[Sequence]:
        """Remove and return all sequences."""
        waiting, self.waiting = list(self.waiting.values()), {}
        self._held.clear()
        return waiting

    def discard(self, sequences: list[Sequence]) -> None:
        """Remove sequences; those that don't wait are ignored."""
        for sequence in sequences:
            self.waiting.pop(sequence.id, None)
            self._held.pop(sequence.id, None)

    def close(self) -> list[Sequence]:
        """Remove and return all sequences; `keep` will add no more, and there is no room."""
        self._enabled = False
        self._hold_s = 0.0
        return self.take()

    def _continues(self, sequence: Sequence) -> bool:
        if not self._enabled or sequence.deaths >= _MOST_DEATHS:
            return False
        if sequence.answer.restart(sequence):
            return True
        message = sequence.message
        if not isinstance(message, Generate):
            return False
        if self._continued and obstacle(message.sampling, message.options) is None:
            return True
        if not is_repeatable(message.sampling):
            return False
        Replay(sequence)
        return True


def identity_of(model: ModelInfo) -> ModelInfo:
    """Return a model's description without what may differ between its replicas."""
    # One that ran out of memory has a smaller batch.
    return msgspec.structs.replace(model, created=0, kv_cache_tokens=0, max_num_seqs=0)
