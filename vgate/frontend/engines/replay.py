"""A sequence that is generated again from its beginning, up to where its client has it."""

from typing import cast

from vgate.errors import EngineUnavailableError
from vgate.frontend.engines.sequence import BaseAnswer, Sequence
from vgate.log import Log

log = Log("vgate.frontend")


class Replay:
    """Reads a sequence in its answer's place, until the sequence is where it was.

    It drops the tokens that the answer has taken before, and then steps aside, so the answer gets
    each token once. Log probabilities are not compared: they differ in the last digits with the
    batch. It ends no sequence: a different token, or an earlier end, becomes the sequence's error,
    with which the answer ends as with any other.
    """

    __slots__ = ("_answer", "_matched", "_sequence", "touched")

    def __init__(self, sequence: Sequence) -> None:
        self.touched = False
        self._sequence = sequence
        self._answer = cast("BaseAnswer", sequence.answer)
        self._matched = 0
        sequence.answer = self
        # The answer is flushed for its other sequences as well.
        self._answer.set_aside(sequence, aside=True)

    def restart(self, sequence: Sequence) -> bool:
        """Start over, because this engine has died too."""
        sequence.pending, sequence.logprobs = [], []
        self._matched = 0
        return True

    def flush(self) -> None:
        """Compare the new tokens."""
        sequence, answer = self._sequence, self._answer
        seen, new = sequence.generated, sequence.pending
        count = min(len(new), len(seen) - self._matched)
        differs = new[:count] != seen[self._matched : self._matched + count]
        self._matched += count
        sequence.pending = new[count:]
        del sequence.logprobs[:count]
        behind = self._matched < len(seen)
        if sequence.error is None:
            if differs or (behind and sequence.finish_reason is not None):
                log.warning("a repeated sequence differs", matched=self._matched - count)
                sequence.error = _different()
            elif behind:
                return
        sequence.answer = answer
        answer.set_aside(sequence, aside=False)
        if sequence.error or sequence.pending or sequence.finish_reason:
            answer.flush()


def _different() -> EngineUnavailableError:
    return EngineUnavailableError(
        "the engine stopped while it worked on this request, and the next one wrote another "
        "answer, which can't continue this one; try again",
        retry_after_s=1.0,
    )
