"""Limits the time that a grammar may take, which is part of the step of the whole batch.

The tokens that a grammar allows next are found by parsing. For an ambiguous one (`s ::= "a" | s s`)
the time grows with the cube of the output: seconds per step after a few hundred tokens. Such a
sequence fails before the others are delayed noticeably.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

# A normal grammar takes well below a millisecond per token; the masks of a large vocabulary are
# built when they are first needed.
_FIRST_S = 2.0
_EACH_TOKEN_S = 0.02


class TimedGrammar:
    """Wraps one of vLLM's StructuredOutputGrammars and reports once that it takes too long.

    `on_too_slow` may be called on another thread. `clock` is the thread's CPU time in seconds, so
    that a busy machine makes no difference.
    """

    def __init__(
        self,
        grammar: Any,
        on_too_slow: Callable[[], object],
        clock: Callable[[], float] = time.thread_time,
    ) -> None:
        self._grammar = grammar
        self._on_too_slow = on_too_slow
        self._clock = clock
        self._left_s = _FIRST_S
        # These cost almost nothing, or run for speculative tokens only.
        self.validate_tokens = grammar.validate_tokens
        self.rollback = grammar.rollback
        self.is_terminated = grammar.is_terminated
        self.reset = grammar.reset

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """Advance by some tokens; false if the grammar does not allow them."""
        started = self._clock()
        accepted: bool = self._grammar.accept_tokens(request_id, tokens)
        self._count(started, _EACH_TOKEN_S * len(tokens))
        return accepted

    def fill_bitmask(self, bitmask: Any, index: int) -> None:
        """Write the tokens that are allowed next."""
        started = self._clock()
        self._grammar.fill_bitmask(bitmask, index)
        self._count(started)

    def _count(self, started: float, earned_s: float = 0.0) -> None:
        before = self._left_s
        self._left_s += earned_s - (self._clock() - started)
        if self._left_s < 0 <= before:
            self._on_too_slow()


def time_grammars(
    manager: Any,
    on_too_slow: Callable[[str], object],
    make: Callable[[Any, Callable[[Any], Any]], Any] | None = None,
) -> None:
    """Make vLLM's StructuredOutputManager create timed grammars.

    Args:
        manager: vLLM's.
        on_too_slow: Called with the id of a request whose grammar takes too long.
        make: Makes the grammar of one of vLLM's requests, with what vLLM would make it; None to
            leave it to that.
    """
    create = manager._create_grammar  # noqa: SLF001 - there is no public hook

    def timed(request: Any) -> TimedGrammar:
        grammar = create(request) if make is None else make(request, create)
        return TimedGrammar(grammar, partial(on_too_slow, request.request_id))

    manager._create_grammar = timed  # noqa: SLF001
