"""When a request is held against its limits, how often, and what happens at its end."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from vgate.errors import LimitsUnavailableError, RateLimitedError
from vgate.frontend.access.admission import Admission
from vgate.frontend.access.budget import Budgets
from vgate.frontend.access.limiter import KeyLimits, LocalLimiter
from vgate.frontend.access.limiter.file import LimitFile
from vgate.frontend.access.limiter.local import LocalGrant
from vgate.frontend.access.meter import Meter, tokens_used_since
from vgate.keys import ApiKey
from vgate.usage import Used

KEY = ApiKey(name="key", sha256="0" * 64)
LIMITS = KeyLimits(requests=2, tokens_per_minute=100, concurrent=2)


@pytest.fixture
def limiter(tmp_path: Path) -> Iterator[LocalLimiter]:
    limiter = LocalLimiter(tmp_path / "limits", 1)
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


@pytest.fixture
def meter(tmp_path: Path) -> Iterator[Meter]:
    since = partial(tokens_used_since, tmp_path)
    meter = Meter(tmp_path, Budgets(tmp_path / "budgets", 1, since))
    yield meter
    meter.close()


@pytest.fixture
def play(limiter, meter):
    """Plays a request; returns the headers of its response."""

    def run(scenario: Callable[[Admission], Awaitable[object]], limits=LIMITS) -> dict[str, str]:
        headers: dict[str, str] = {}

        async def owned() -> None:
            async with Admission(limiter, meter, KEY, limits, headers) as admission:
                await scenario(admission)

        asyncio.run(owned())
        return headers

    return run


def used(limiter: LocalLimiter) -> tuple[int, int, int]:
    usage = asyncio.run(limiter.usage("key", LIMITS))
    return usage.requests, usage.tokens, usage.concurrent


def test_a_generated_answer_takes_two_critical_sections(play, limiter, entered):
    async def scenario(admission):
        await admission.begin(wait=True)
        await admission.reserve(60)
        admission.settle("m", Used(prompt_tokens=20, completion_tokens=5))
        await admission.count()

    headers = play(scenario)
    assert headers["x-ratelimit-remaining-tokens"] == "40"
    assert len(entered) == 2
    assert used(limiter) == (1, 25, 0)


def test_an_answer_that_uses_nothing_takes_one(play, limiter, entered):
    async def scenario(admission):
        await admission.begin(wait=True)
        await admission.count()
        await admission.count()

    assert play(scenario)["x-ratelimit-remaining"] == "1"
    assert len(entered) == 1
    assert used(limiter) == (1, 0, 0)


def test_tokens_may_come_after_the_request(play, limiter):
    async def scenario(admission):
        await admission.begin(wait=False)
        assert used_now(limiter) == (1, 0, 1)
        await admission.reserve(60)
        assert used_now(limiter) == (1, 60, 1)

    def used_now(limiter):
        file = limiter.file("key")
        return file.requests.total, file.tokens.total, file.running

    play(scenario)
    assert used(limiter) == (1, 60, 0)


@pytest.mark.parametrize("early", [True, False])
def test_tokens_that_are_refused_leave_nothing(play, limiter, early):
    async def scenario(admission):
        await admission.begin(wait=not early)
        with pytest.raises(RateLimitedError, match="more tokens than"):
            await admission.reserve(101)

    headers = play(scenario)
    assert headers["x-ratelimit-remaining"] == "2"
    assert headers["x-ratelimit-remaining-tokens"] == "100"
    assert used(limiter) == (0, 0, 0)


def test_a_full_window_does_not_wait(play):
    for _ in range(2):
        play(lambda admission: admission.count())

    async def scenario(admission):
        with pytest.raises(RateLimitedError, match="too many requests for") as refused:
            await admission.begin(wait=True)
        assert refused.value.retry_after_s == pytest.approx(60, abs=5)

    assert play(scenario)["x-ratelimit-remaining"] == "0"


def test_too_many_at_once_do_not_wait(play):
    limits = KeyLimits(concurrent=1)

    async def first(admission):
        await admission.begin(wait=True)
        await admission.reserve(10)
        await asyncio.to_thread(play, second, limits)

    async def second(admission):
        with pytest.raises(RateLimitedError, match="at once"):
            await admission.begin(wait=True)

    play(first, limits)
    play(lambda admission: admission.begin(wait=False), limits)


def test_nothing_is_said_before_the_decision(play, limiter):
    async def scenario(admission):
        await admission.begin(wait=True)
        await admission.abandon()

    assert play(scenario) == {}
    assert used(limiter) == (0, 0, 0)


def test_an_abandoned_request_is_not_counted(play, limiter):
    async def scenario(admission):
        await admission.reserve(60)
        await admission.abandon()

    play(scenario)
    assert used(limiter) == (0, 0, 0)


@pytest.mark.parametrize("error", [ZeroDivisionError, asyncio.CancelledError])
def test_whatever_happens_it_is_settled(play, limiter, error):
    async def scenario(admission):
        await admission.reserve(60)
        admission.settle("m", Used(completion_tokens=7))
        raise error

    with pytest.raises(error):
        play(scenario)
    assert used(limiter) == (1, 7, 0)


async def broken(*_arguments, **_more):
    raise ConnectionRefusedError


def test_a_limiter_that_fails_lets_nothing_through(play, monkeypatch):
    async def scenario(admission):
        for decide in (admission.begin(wait=False), admission.reserve(5), admission.count()):
            with pytest.raises(LimitsUnavailableError, match="can't be checked"):
                await decide

    monkeypatch.setattr(LocalLimiter, "reserve", broken)
    assert play(scenario) == {}


@pytest.mark.parametrize("verb", ["settle", "abandon"])
def test_a_limiter_that_fails_at_the_end_takes_no_answer_away(play, monkeypatch, verb):
    async def scenario(admission):
        await admission.reserve(5)
        await admission.abandon()

    monkeypatch.setattr(LocalGrant, verb, broken)
    assert play(scenario)["x-ratelimit-remaining"] == "1"
