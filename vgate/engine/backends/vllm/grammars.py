"""Grammars that may take only so long: following one is part of the step that all sequences share.

What a grammar allows next is found by parsing, and of an ambiguous one (`s ::= "a" | s s`) that
takes longer with the cube of the text: seconds a step after some hundred tokens. Such a sequence
fails, before the others wait noticeably.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

# A usual grammar takes well below a millisecond a token; the masks of a large vocabulary are made
# when they are first needed.
_FIRST_S = 2.0
_EACH_TOKEN_S = 0.02


class TimedGrammar:
    """One of vLLM's StructuredOutputGrammars, which tells once when it has taken too long.

    Args:
        grammar: vLLM's.
        on_too_slow: Called then, maybe on another thread.
        clock: The thread's CPU time in seconds, so that a busy machine makes no difference.
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
        # What costs next to nothing, or is done for speculative tokens only.
        self.validate_tokens = grammar.validate_tokens
        self.rollback = grammar.rollback
        self.is_terminated = grammar.is_terminated
        self.reset = grammar.reset

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """Go on with tokens; false if they don't belong to the form."""
        begun = self._clock()
        accepted: bool = self._grammar.accept_tokens(request_id, tokens)
        self._count(begun, _EACH_TOKEN_S * len(tokens))
        return accepted

    def fill_bitmask(self, bitmask: Any, index: int) -> None:
        """Write which tokens may come next."""
        begun = self._clock()
        self._grammar.fill_bitmask(bitmask, index)
        self._count(begun)

    def _count(self, begun: float, earned_s: float = 0.0) -> None:
        before = self._left_s
        self._left_s += earned_s - (self._clock() - begun)
        if self._left_s < 0 <= before:
            self._on_too_slow()


def time_grammars(manager: Any, on_too_slow: Callable[[str], object]) -> None:
    """Have a StructuredOutputManager of vLLM's make timed grammars.

    Args:
        manager: vLLM's.
        on_too_slow: Called with the name of a request whose grammar takes too long.
    """
    create = manager._create_grammar  # noqa: SLF001 - it has no other place to hook into

    def timed(request: Any) -> TimedGrammar:
        return TimedGrammar(create(request), partial(on_too_slow, request.request_id))

    manager._create_grammar = timed  # noqa: SLF001
