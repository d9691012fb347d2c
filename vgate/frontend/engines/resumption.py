"""Which requests outlive their engine, and from where they continue in another one.

A sequence starts again if none of its output was sent, which is always exact. Otherwise it
continues after the tokens so far, if the next tokens depend only on the tokens before them and not
on where the prompt ends. All other sequences end with an error.
"""

import msgspec

from vgate.frontend.engines.sequence import Sequence
from vgate.wire.codec import pack_token_ids
from vgate.wire.messages import NO_OPTIONS, Embed, Generate, GenerateOptions, ModelInfo
from vgate.wire.sampling import DEFAULTS, SamplingParams

# A request that kills its engine would kill every engine that continues it.
_MOST_DEATHS = 2


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
    assert message is not None
    if isinstance(message, Embed) or not sequence.generated:
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
    """The sequences that wait for another engine.

    A sequence ends exactly once. It is in the table of an engine's handle, or it waits here, or it
    has ended; and it is removed from its table before it ends. The connection to the dead engine is
    closed before its sequences wait here, and they leave with a new id for another connection. So
    neither a late message of the old engine nor an abort with the old id can reach them.

    Args:
        enabled: Whether sequences outlive their engine.
        continued: Whether a sequence may continue after some of its output was sent.

    Attributes:
        waiting: The sequences by their last id.
    """

    def __init__(self, *, enabled: bool, continued: bool = True) -> None:
        self._enabled = enabled
        self._continued = continued
        self.waiting: dict[int, Sequence] = {}

    def keep(self, lost: list[Sequence]) -> list[Sequence]:
        """Add the sequences of a dead engine; return those that can't continue."""
        ended = []
        for sequence in lost:
            sequence.deaths += 1
            if self._continues(sequence):
                self.waiting[sequence.id] = sequence
            else:
                ended.append(sequence)
        return ended

    def take(self) -> list[Sequence]:
        """Remove and return all sequences."""
        waiting, self.waiting = list(self.waiting.values()), {}
        return waiting

    def discard(self, sequences: list[Sequence]) -> None:
        """Remove sequences; those that don't wait are ignored."""
        for sequence in sequences:
            self.waiting.pop(sequence.id, None)

    def close(self) -> list[Sequence]:
        """Remove and return all sequences; `keep` will add no more."""
        self._enabled = False
        return self.take()

    def _continues(self, sequence: Sequence) -> bool:
        if not self._enabled or sequence.deaths >= _MOST_DEATHS:
            return False
        if sequence.answer.restart(sequence):
            return True
        message = sequence.message
        return (
            self._continued
            and isinstance(message, Generate)
            and obstacle(message.sampling, message.options) is None
        )


def identity_of(model: ModelInfo) -> ModelInfo:
    """Return a model's description without what may differ between its replicas."""
    return msgspec.structs.replace(model, created=0, kv_cache_tokens=0)
