"""The time limit of grammars, with a fake instead of vLLM."""

from types import SimpleNamespace
from typing import Any

import pytest

from vgate.engine.backends.vllm.grammars import TimedGrammar, time_grammars


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


class Grammar:
    """Takes a time for a mask and a token."""

    def __init__(self, clock: Clock, mask_s: float = 0.0, token_s: float = 0.0) -> None:
        self._clock = clock
        self._mask_s = mask_s
        self._token_s = token_s
        self.accepted: list[int] = []
        self.masks = 0

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        assert request_id == "r"
        self.accepted += tokens
        self._clock.now += self._token_s * len(tokens)
        return 13 not in tokens

    def fill_bitmask(self, bitmask: Any, index: int) -> None:
        bitmask[index] = 1
        self.masks += 1
        self._clock.now += self._mask_s

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        return tokens[:1]

    def rollback(self, num_tokens: int) -> None:
        del self.accepted[-num_tokens:]

    def is_terminated(self) -> bool:
        return 99 in self.accepted

    def reset(self) -> None:
        self.accepted.clear()


def steps(grammar: TimedGrammar, slow: list[str], most: int = 10_000) -> int:
    """Return after how many steps the grammar was reported as slow."""
    for step in range(most):
        grammar.fill_bitmask([0], 0)
        assert grammar.accept_tokens("r", [5])
        if slow:
            return step
    return most


def timed(inner: Grammar, slow: list[str]) -> TimedGrammar:
    return TimedGrammar(inner, lambda: slow.append("slow"), inner._clock)


@pytest.mark.parametrize(("mask_s", "token_s"), [(0.001, 0.0), (0.0, 0.019), (0.01, 0.009)])
def test_a_normal_grammar_has_no_time_limit(mask_s: float, token_s: float):
    slow: list[str] = []
    assert steps(timed(Grammar(Clock(), mask_s, token_s), slow), slow) == 10_000


@pytest.mark.parametrize(("mask_s", "token_s"), [(0.5, 0.0), (0.0, 0.5), (60.0, 0.0)])
def test_a_slow_grammar_is_reported_once_and_within_seconds(mask_s: float, token_s: float):
    slow: list[str] = []
    inner = Grammar(clock := Clock(), mask_s, token_s)
    grammar = timed(inner, slow)
    assert steps(grammar, slow) < 10
    assert clock.now < 2 * max(mask_s, 2)
    grammar.fill_bitmask([0], 0)
    grammar.accept_tokens("r", [5])
    assert slow == ["slow"]


def test_slow_first_masks_are_allowed():
    slow: list[str] = []
    inner = Grammar(Clock(), mask_s=1.5)
    grammar = timed(inner, slow)
    grammar.fill_bitmask([0], 0)
    inner._mask_s = 0.001
    assert steps(grammar, slow) == 10_000


def test_all_other_methods_are_the_grammar_s():
    grammar = timed(inner := Grammar(Clock()), [])
    mask = [0, 0]
    grammar.fill_bitmask(mask, 1)
    assert mask == [0, 1]
    assert grammar.accept_tokens("r", [1, 2])
    assert not grammar.accept_tokens("r", [13])
    assert grammar.validate_tokens([7, 8]) == [7]
    grammar.rollback(2)
    assert inner.accepted == [1]
    assert not grammar.is_terminated()
    assert grammar.accept_tokens("r", [99])
    assert grammar.is_terminated()
    grammar.reset()
    assert inner.accepted == []


def test_a_manager_creates_timed_grammars():
    made = Grammar(clock := Clock())
    slow: set[str] = set()
    manager = SimpleNamespace(_create_grammar=lambda _request: made)
    time_grammars(manager, slow.add)
    quick = manager._create_grammar(SimpleNamespace(request_id="quick"))
    other = manager._create_grammar(SimpleNamespace(request_id="slow"))
    other._clock = clock
    made._mask_s = 100.0
    other.fill_bitmask([0], 0)
    assert quick.accept_tokens("r", [5])
    assert slow == {"slow"}
