"""When a request is held against its key's limits, and how often."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from vgate.frontend.access.admission import Admission
from vgate.frontend.access.limiter.file import LimitFile
from vgate.frontend.access.limiter.local import KeyLimits, Limiter
from vgate.keys import ApiKey

KEY = ApiKey(name="key", sha256="0" * 64)
LIMITS = KeyLimits(requests=2, tokens_per_minute=100, concurrent=2)


@pytest.fixture
def limiter(tmp_path: Path) -> Iterator[Limiter]:
    limiter = Limiter(tmp_path, 1)
    limiter.prepare("key:key", LIMITS)
    yield limiter
    limiter.close()


@pytest.fixture
def entered(monkeypatch: pytest.MonkeyPatch) -> list[LimitFile]:
    """Every critical section that was entered."""
    found: list[LimitFile] = []
    enter = LimitFile.__enter__

    def noting(file: LimitFile) -> LimitFile:
        found.append(file)
        return enter(file)

    monkeypatch.setattr(LimitFile, "__enter__", noting)
    return found


def used(limiter: Limiter) -> tuple[int, int, int]:
    usage = limiter.usage("key:key")
    return usage.requests, usage.tokens, usage.concurrent


def test_a_generated_answer_takes_two_critical_sections(limiter, entered):
    admission = Admission(limiter, KEY, LIMITS)
    assert admission.can_wait
    assert admission.admit(60).allowed
    assert dict(admission.headers())["x-ratelimit-remaining-tokens"] == "40"
    admission.settle(25)
    admission.release()
    assert len(entered) == 2
    assert used(limiter) == (1, 25, 0)


def test_an_answer_that_uses_nothing_takes_one(limiter, entered):
    admission = Admission(limiter, KEY, LIMITS)
    assert admission.can_wait
    assert admission.admit(runs=False).allowed
    assert dict(admission.headers())["x-ratelimit-remaining"] == "1"
    admission.release()
    assert len(entered) == 1
    assert used(limiter) == (1, 0, 0)


def test_tokens_may_come_after_the_request(limiter):
    admission = Admission(limiter, KEY, LIMITS)
    assert admission.admit().allowed
    assert used(limiter) == (1, 0, 1)
    assert admission.admit(60).allowed
    assert used(limiter) == (1, 60, 1)
    admission.release()
    assert used(limiter) == (1, 60, 0)


@pytest.mark.parametrize("early", [True, False])
def test_tokens_that_are_refused_leave_nothing(limiter, early):
    admission = Admission(limiter, KEY, LIMITS)
    if early:
        admission.admit()
    assert admission.admit(101).reason == "tokens"
    headers = dict(admission.headers())
    assert headers["x-ratelimit-remaining"] == "2"
    assert headers["x-ratelimit-remaining-tokens"] == "100"
    admission.release()
    assert used(limiter) == (0, 0, 0)


def test_a_full_window_does_not_wait(limiter):
    for _ in range(2):
        Admission(limiter, KEY, LIMITS).admit(runs=False)
    admission = Admission(limiter, KEY, LIMITS)
    assert not admission.can_wait
    assert admission.admit().reason == "requests"
    assert dict(admission.headers())["x-ratelimit-remaining"] == "0"


def test_too_many_at_once_do_not_wait(tmp_path):
    limits = KeyLimits(concurrent=1)
    limiter = Limiter(tmp_path, 1)
    first, second = (Admission(limiter, KEY, limits) for _ in range(2))
    assert first.can_wait
    first.admit(10)
    assert not second.can_wait
    first.release()
    assert second.can_wait
    limiter.close()


def test_nothing_is_said_before_the_decision(limiter):
    admission = Admission(limiter, KEY, LIMITS)
    assert admission.headers() == []
    admission.release()
    admission.withdraw()
    assert used(limiter) == (0, 0, 0)
