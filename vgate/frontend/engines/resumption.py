"""Decides which sequences outlive their engine, where they continue, and which wait for another.

A sequence of which nothing was sent starts again, which is always exact. Otherwise it continues
after the tokens so far, if the next tokens depend only on the tokens before them and not on where
the prompt ends. Otherwise it is generated again from its beginning and compared with what was sent
(`replay`), unless its tokens depend on chance. All other sequences end with an error.
"""

import math
from collections.abc import Iterable

import msgspec

from vgate.errors import EngineUnavailableError, StreamNotFoundError, VGateError
from vgate.frontend.engines.handle import Loss
from vgate.frontend.engines.replay import Replay
from vgate.frontend.engines.residency import Residence
from vgate.frontend.engines.sequence import Sequence, fail
from vgate.frontend.engines.suspects import Suspects
from vgate.wire.codec import pack_token_ids
from vgate.wire.messages import Embed, Generate, ModelInfo
from vgate.wire.parameters import DEFAULTS, NO_OPTIONS, GenerateOptions, SamplingParams

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


def resubmission(sequence: Sequence, number: int) -> Generate | Embed:
    """Return the request for another engine: from the start, or after the tokens so far."""
    message = sequence.message
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
        most_losses: How many engines may die while they run a sequence, if it is hardly the cause.
        suspects: Remembers the requests that engines died with; None: nothing does.
        residence: Bounds how many new sequences wait, in place of `most_held`, and they wait until
            their deadline if `loads`: the model may be unloaded. None: it always is loaded.

    Attributes:
        residence: As given.
        waiting: The sequences by their last id.
        closed: Whether a sequence only goes on in an engine that is there.
        loads: Whether the model is loaded, or comes back, for those that wait; see `expect`.
    """

    def __init__(
        self,
        *,
        enabled: bool,
        continued: bool = True,
        hold_s: float = 0.0,
        most_held: int = 0,
        most_losses: int = _MOST_DEATHS,
        suspects: Suspects | None = None,
        residence: Residence | None = None,
    ) -> None:
        self.residence = residence
        self._enabled = enabled
        self._continued = continued
        self._hold_s = hold_s
        self._most_held = most_held
        self._most_losses = most_losses
        self._suspects = suspects
        self.waiting: dict[int, Sequence] = {}
        self.closed = False
        self.loads = True
        # Until when the new ones among them are held.
        self._held: dict[int, float] = {}

    def deaths_of(self, message: Generate | Embed) -> int:
        """Return how many engines died while they ran such a request before; usually 0.

        Raises:
            EngineUnavailableError: Too many.
        """
        return self._suspects.check(message) if self._suspects else 0

    def has_room(self, key: str = "") -> bool:
        """Whether `hold` takes a sequence of any request of this API key."""
        if self.residence is not None:
            return self.residence.has_room(key) and not self.closed
        if not self._hold_s or len(self._held) >= self._most_held:
            return False
        held = (self.waiting[number] for number in self._held)
        return sum(len(each.message.prompt) for each in held) < _MOST_HELD_BYTES

    def hold(self, sequence: Sequence, now: float) -> None:
        """Let a new sequence wait, with its message and deadline. Call it only if there is room."""
        self.waiting[sequence.id] = sequence
        self._held[sequence.id] = self._until(now)
        if self.residence is not None:
            message = sequence.message
            self.residence.enter(sequence.answer, len(message.prompt), message.tenant)

    def expect(self, now: float, *, loads: bool) -> None:
        """Take note whether the model of a `residence` is loaded for those that wait.

        If an operator keeps its engines from taking anything, new ones wait for `hold_s` from now.
        """
        if loads != self.loads:
            self.loads = loads
            self._held = dict.fromkeys(self._held, self._until(now))

    def _until(self, now: float) -> float:
        unlimited = self.residence is not None and self.loads
        return math.inf if unlimited else now + self._hold_s

    def held_too_long(self, now: float) -> list[Sequence]:
        """Remove and return the new sequences that no engine came for in time."""
        late = [self.waiting[number] for number, until in self._held.items() if until <= now]
        self.discard(late)
        return late

    def takes_more_of(self, sequence: Sequence) -> bool:
        """Whether `hold` takes a sequence since others of the same request wait, or have run."""
        if self.residence is None or self.closed:
            return False
        others = getattr(sequence.answer, "sequences", ())
        return sequence.answer in self.residence or any(other.id for other in others)

    def lost(self) -> list[str]:
        """Return the API key of each one that waits because its engine has ended."""
        if len(self.waiting) == len(self._held):
            return []
        waiting = self.waiting.items()
        return [each.message.tenant for number, each in waiting if number not in self._held]

    def keep(
        self,
        lost: list[Sequence],
        *,
        died: bool = True,
        unloaded: bool = False,
        drained: bool = False,
    ) -> list[Sequence]:
        """Add the sequences of a lost engine; return those that can't continue.

        If it did not die - only the link was lost, or it was `unloaded` - they have no part in
        that. If it was to be `drained`, what it hadn't begun goes on in any case: it was sent
        before that was known here.
        """
        ended = []
        for sequence in lost:
            # One that its engine had not begun has no part in the death.
            is_loss = died and sequence.started
            sequence.losses += is_loss
            sequence.deaths += is_loss and not sequence.proved
            if sequence.losses >= self._most_losses:
                sequence.deaths = max(sequence.deaths, _MOST_DEATHS)
            # What was to be read of a kept stream ended with its engine.
            gone = (died or unloaded) and _joins(sequence)
            is_new = drained and sequence.queued_s is None and not sequence.has_output
            if not gone and self._continues(sequence, is_new=is_new):
                self.waiting[sequence.id] = sequence
            else:
                ended.append(sequence)
        if self._suspects and died:
            self._suspects.on_death()
            for sequence in ended:
                if sequence.deaths >= _MOST_DEATHS:
                    self._suspects.report(sequence.message, sequence.deaths)
        return ended

    def take(self) -> list[Sequence]:
        """Remove and return all sequences."""
        waiting = list(self.waiting.values())
        self.discard(waiting)
        return waiting

    def discard(self, sequences: list[Sequence]) -> None:
        """Remove sequences; those that don't wait are ignored."""
        for sequence in sequences:
            self.waiting.pop(sequence.id, None)
            held = self._held.pop(sequence.id, None) is not None
            if held and self.residence is not None:
                size = len(sequence.message.prompt)
                sequence.model_wait_s = self.residence.leave(sequence.answer, size)

    def close(self) -> list[Sequence]:
        """Remove and return all sequences; those that `keep` adds from now on can't wait."""
        self.closed = True
        self._hold_s = 0.0
        return self.take()

    def _continues(self, sequence: Sequence, *, is_new: bool) -> bool:
        if not (self._enabled or is_new) or sequence.deaths >= _MOST_DEATHS:
            return False
        if sequence.answer.restart(sequence):
            return True
        message = sequence.message
        if not isinstance(message, Generate):
            return False
        if self._continued and obstacle(message.sampling, message.options) is None:
            return True
        if not message.sampling.is_deterministic:
            return False
        Replay(sequence)
        return True


def _joins(sequence: Sequence) -> bool:
    """Whether a sequence only reads one that its engine keeps, and hasn't begun to."""
    keep = sequence.message.keep if isinstance(sequence.message, Generate) else None
    return keep is not None and keep.joins and not sequence.generated


def cannot_join(*, alive: bool) -> VGateError:
    """Return the error of a take-up whose engine is lost; it may be `alive`, and have the stream.

    Otherwise the client is told so now, and not only when it has tried again.
    """
    if alive:
        message = "the engine that keeps this stream can't be reached now; try again"
        return EngineUnavailableError(message, retry_after_s=1.0)
    return StreamNotFoundError(
        "the engine that kept this stream has stopped, and the stream is lost with it; send the "
        "request again without `Last-Event-ID`"
    )


def fail_lost(sequences: list[Sequence], loss: Loss) -> None:
    """End sequences that don't go on after this loss of their engine."""
    joining = {id(sequence.answer) for sequence in sequences if _joins(sequence)}
    taking_up = [sequence for sequence in sequences if id(sequence.answer) in joining]
    fail(taking_up, cannot_join(alive=loss.alive))
    sequences = [sequence for sequence in sequences if id(sequence.answer) not in joining]
    worn = {id(sequence.answer) for sequence in sequences if sequence.deaths > 1}
    for twice, also in ((False, ""), (True, ", as another one did before")):
        some = [sequence for sequence in sequences if (id(sequence.answer) in worn) == twice]
        message = f"{loss.reason} while it worked on this request{also}; try again"
        # An answer that loses one of its sequences aborts the others, waiting ones included.
        fail(some, EngineUnavailableError(message, retry_after_s=5.0))


def identity_of(model: ModelInfo) -> ModelInfo:
    """Return a model's description without what may differ between its replicas."""
    # One that ran out of memory has a smaller batch, and each may choose its context.
    return msgspec.structs.replace(
        model, created=0, kv_cache_tokens=0, max_num_seqs=0, max_model_len=0
    )


def least(model: ModelInfo, engines: Iterable[ModelInfo]) -> ModelInfo:
    """Return a model's description with the least context that an engine of it has."""
    same = (other for other in engines if identity_of(other) == identity_of(model))
    shortest = min((other.max_model_len for other in same), default=model.max_model_len)
    return msgspec.structs.replace(model, max_model_len=shortest)
