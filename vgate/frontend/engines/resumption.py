"""Requests that outlive their engine: which of them go on, and with what.

When an engine dies, its sequences wait here for the next one. What the client has been shown
nothing of begins anew, which is always exact. What it has seen goes on after the tokens so far,
where the tokens to come depend only on those before them and not on where the prompt ends. The rest
ends in an error.

An end comes to a sequence once: it is in the engine client's table of running ones, or here, or it
has ended, and every way to an end takes it out first. It leaves this place under a new number, for
a new connection; the old one was closed before it came here. So neither what the old engine still
sent nor an abort of the old number can meet it.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.observe import metrics
from vgate.wire.codec import pack_token_ids
from vgate.wire.messages import NO_OPTIONS, Embed, Generate, GenerateOptions, ModelInfo
from vgate.wire.sampling import DEFAULTS, SamplingParams

# A request that kills its engine would kill all that follow.
_MOST_DEATHS = 2

# Parameters that mean the same for a sequence's next token, whatever of it is taken for prompt.
# One that is not named here keeps a sequence from being continued, unless it is neutral. Those are:
# - seed: the generator's state is lost; without temperature it isn't used
# - presence_penalty, frequency_penalty: only what was generated counts
#   (vllm/v1/sample/ops/penalties.py; repetition_penalty counts the prompt as well)
# - bad_words: only what was generated is searched (vllm/v1/sample/ops/bad_words.py)
# - structured: a grammar begins with the first token that is generated
CONTINUED = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "max_tokens",  # of all engines together: see `Generate.generated`
        "min_tokens",  # as max_tokens
        "stop_token_ids",
        "ignore_eos",
        "logit_bias",
        "allowed_token_ids",
        "logprobs",
        "prompt_logprobs",  # told with the first token
        "adapter",
        "cache_salt",
    }
)


def obstacle(sampling: SamplingParams, options: GenerateOptions) -> str | None:
    """Name a parameter with which a begun sequence can't be continued exactly; None if none is."""
    for given, neutral in ((sampling, DEFAULTS), (options, NO_OPTIONS)):
        for name in given.__struct_fields__:
            value = getattr(given, name)
            if name in CONTINUED or value is None or value == getattr(neutral, name):
                continue
            if name == "seed" and sampling.temperature == 0:
                continue
            return name
    return None


def resubmission(sequence: Sequence, number: int) -> Generate | Embed:
    """Return what asks the next engine for a sequence, from its beginning or after its tokens."""
    message = sequence.message
    assert message is not None
    if isinstance(message, Embed) or not sequence.generated:
        return msgspec.structs.replace(message, id=number, resumed=True)
    return msgspec.structs.replace(
        message,
        id=number,
        resumed=True,
        generated=pack_token_ids(sequence.generated),
        # It isn't what another one begins with.
        share=b"",
    )


class Survivors:
    """The sequences that wait for another engine.

    Args:
        enabled: Whether any do.
        continued: Whether begun ones may be continued.

    Attributes:
        waiting: By the number that they had.
    """

    def __init__(self, *, enabled: bool, continued: bool = True) -> None:
        self._enabled = enabled
        self._continued = continued
        self._served: object = None
        self.waiting: dict[int, Sequence] = {}

    def keep(self, lost: list[Sequence]) -> list[Sequence]:
        """Take in what a dead engine had; return those for which that is the end."""
        ended = []
        for sequence in lost:
            sequence.deaths += 1
            if self._goes_on(sequence):
                self.waiting[sequence.id] = sequence
            else:
                ended.append(sequence)
        return ended

    def take(self) -> list[Sequence]:
        """Take all of them out."""
        waiting, self.waiting = list(self.waiting.values()), {}
        return waiting

    def discard(self, sequences: list[Sequence]) -> None:
        """Take some of them out, if they are here."""
        for sequence in sequences:
            self.waiting.pop(sequence.id, None)

    def close(self) -> list[Sequence]:
        """Take all out, and none in any more: no other engine will come."""
        self._enabled = False
        return self.take()

    def is_same(self, model: ModelInfo) -> bool:
        """Say whether an engine serves what the last one did; False for the first."""
        before, self._served = self._served, _identity(model)
        return before == self._served

    def _goes_on(self, sequence: Sequence) -> bool:
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


def count_resumed(sequences: list[Sequence]) -> None:
    """Count the requests that sequences belong to."""
    metrics.RESUMED.inc(len({id(sequence.answer) for sequence in sequences}))


def _identity(model: ModelInfo) -> object:
    """Return what a model is the same by: its description and its files, not what it fits in."""
    told = msgspec.structs.replace(model, created=0, kv_cache_tokens=0)
    if model.directory is None:
        return told
    try:
        paths = [path for path in sorted(Path(model.directory).iterdir()) if path.is_file()]
        statuses = [(path.name, path.stat()) for path in paths]
    except OSError:
        # Nobody knows, so it is like no other.
        return object()
    return told, [(name, status.st_size, status.st_mtime_ns) for name, status in statuses]
