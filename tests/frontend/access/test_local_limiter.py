"""What only the limiter of one machine has: files, their growth, their lock and its holders."""

import asyncio
import errno
import os
import threading
from contextlib import contextmanager

import pytest

from tests.frontend.access.limiters import Clock
from vgate.config.runtime import MAX_WORKER
from vgate.frontend.access.limiter import KeyLimits, LocalLimiter, Usage
from vgate.frontend.access.limiter import file as file_module
from vgate.frontend.access.limiter import local as local_module
from vgate.frontend.access.limiter.port import NS


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def make(tmp_path, clock):
    made = []

    def limiter(worker=1):
        made.append(LocalLimiter(tmp_path / "limits", worker, clock_ns=clock, wall_s=clock.wall))
        return made[-1]

    yield limiter
    for each in made:
        each.close()


def reserve(limiter, limits, tokens=0, key="k"):
    return asyncio.run(limiter.reserve(key, limits, tokens))


def admits(limiter, limits, tokens=0, key="k"):
    return reserve(limiter, limits, tokens, key).decision.allowed


def stamps_admitted(limiter, limits, clock, *, attempts, every_ns):
    """Return when requests of one token are admitted, of so many with so much time between."""
    admitted = []
    for _ in range(attempts):
        clock.ns += every_ns
        if admits(limiter, limits, 1):
            admitted.append(clock.ns)
    return admitted


def are_a_minute_apart(stamps, count):
    """Whether each stamp is a minute after the one `count` before it."""
    pairs = zip(stamps, stamps[count:], strict=False)
    return all(later - earlier >= 60 * NS for earlier, later in pairs)


NO_LIMITS = KeyLimits()


def usage(limiter, limits=NO_LIMITS):
    return asyncio.run(limiter.usage("k", limits))


def test_no_limits_touch_no_file(make, tmp_path):
    limiter = make()

    async def all_of_it():
        grant = await limiter.reserve("k", KeyLimits(), 10)
        assert (await grant.reserve(5)).allowed
        await grant.settle(5)
        await grant.abandon()

    asyncio.run(all_of_it())
    assert not limiter.likely_full("k", KeyLimits())
    assert [path.name for path in (tmp_path / "limits").iterdir()] == ["workers"]


def test_it_guesses_from_the_counts(make):
    limiter = make()
    few, one = KeyLimits(requests=2), KeyLimits(concurrent=1)
    grant = reserve(limiter, few)
    assert not limiter.likely_full("k", few)
    assert limiter.likely_full("k", one)
    asyncio.run(grant.settle())
    assert not limiter.likely_full("k", one)
    reserve(limiter, few)
    assert limiter.likely_full("k", few)


def test_a_lock_that_is_held_for_long_is_waited_for(make):
    limits = KeyLimits(requests=1)
    one, two = make(1), make(2)
    waiting = threading.Thread(target=reserve, args=(two, limits))
    two.file("k")
    with one.file("k"):
        waiting.start()
        waiting.join(0.2)
        assert waiting.is_alive()
        assert one.file("k").requests.total == 0
    waiting.join(30)
    assert not admits(one, limits)


def test_another_worker_follows_a_larger_file(make):
    one, two = make(1), make(2)
    small, large = KeyLimits(requests=2), KeyLimits(requests=3000)
    assert admits(two, small)
    assert sum(admits(one, large) for _ in range(2000)) == 2000
    assert sum(admits(two, large) for _ in range(2000)) == 999


def test_thousands_of_tokens_apart_are_exact(make, clock):
    limiter, limits = make(), KeyLimits(tokens_per_minute=1000)
    admitted = stamps_admitted(limiter, limits, clock, attempts=6000, every_ns=NS // 30)
    assert are_a_minute_apart(admitted, 1000)
    assert len(admitted) > 3500  # in 200 s: three full windows, and 20 s at 30 a second
    assert usage(limiter).tokens == 1000


def test_a_ring_at_its_bound_never_admits_too_much(make, clock, monkeypatch):
    monkeypatch.setattr(file_module, "_FIRST_ENTRIES", 64)
    monkeypatch.setattr(file_module, "_MOST_ENTRIES", 64)
    limiter, limits = make(), KeyLimits(tokens_per_minute=100)
    admitted = stamps_admitted(limiter, limits, clock, attempts=2000, every_ns=NS // 10)
    assert are_a_minute_apart(admitted, 100)
    assert len(admitted) >= 300


def test_a_file_of_another_boot_or_format_starts_empty(make, monkeypatch, tmp_path):
    limits = KeyLimits(requests=1)
    reserve(make(), limits)
    boot = tmp_path / "boot_id"
    boot.write_text("another")
    monkeypatch.setattr(local_module, "_BOOT_ID", boot)
    assert admits(make(2), limits)
    (file,) = (path for path in (tmp_path / "limits").iterdir() if path.is_file())
    file.write_bytes(b"garbage" * 1000)
    assert admits(make(3), limits)


def test_after_an_error_in_the_critical_section_the_next_holder_recounts(make, monkeypatch):
    limiter, limits = make(), KeyLimits(requests=3, concurrent=3)
    reserve(limiter, limits)
    file = limiter.file("k")
    monkeypatch.setattr(type(file), "count_running", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        reserve(limiter, limits)
    monkeypatch.undo()
    file._words[4] = 77  # what is only cached: the next holder recounts
    assert usage(limiter).concurrent == 1
    file._words[4] = 77  # now the last holder left it clean
    assert usage(limiter).concurrent == 77


@pytest.fixture
def full_disk(monkeypatch):
    """A disk on which nothing larger than what is there can be made, until the context's end."""

    def allocate(fd, offset, length):
        if os.fstat(fd).st_size < offset + length:
            raise OSError(errno.ENOSPC, "No space left on device")

    @contextmanager
    def full():
        with monkeypatch.context() as patched:
            patched.setattr(file_module.os, "posix_fallocate", allocate)
            yield

    return full


def test_a_new_key_takes_nothing_on_a_full_disk(make, full_disk):
    limiter, limits = make(), KeyLimits(requests=3, tokens_per_minute=100, concurrent=3)
    with full_disk(), pytest.raises(OSError, match="No space"):
        reserve(limiter, limits, 10)
    assert usage(limiter, limits) == Usage(0, 0, 0)
    assert admits(limiter, limits, 10)


def test_a_full_disk_stops_no_key_that_was_seen(make, clock, full_disk):
    limiter, limits = make(), KeyLimits(requests=1000, tokens_per_minute=2000)
    limiter.file("k")
    with full_disk():
        admitted = stamps_admitted(limiter, limits, clock, attempts=2500, every_ns=NS // 20)
    # More than its file has room for, so some leave later than they could.
    assert 1000 < len(admitted) <= 2500
    assert are_a_minute_apart(admitted, 1000)
    clock.ns += 60 * NS
    again = stamps_admitted(limiter, limits, clock, attempts=2500, every_ns=NS // 20)
    assert len(again) > len(admitted)
    assert are_a_minute_apart(again, 1000)


def test_open_files_are_bounded(make, monkeypatch):
    monkeypatch.setattr(local_module, "_MAX_OPEN_FILES", 3)
    limiter, limits = make(), KeyLimits(requests=2)
    decisions = [admits(limiter, limits, key=f"k{n}") for _ in range(3) for n in range(5)]
    assert decisions == [True] * 10 + [False] * 5
    assert len(limiter._files) == 3


@pytest.mark.parametrize("worker", [-1, MAX_WORKER + 1])
def test_worker_numbers_are_bounded(make, worker):
    with pytest.raises(ValueError, match=f"0 to {MAX_WORKER}"):
        make(worker)
