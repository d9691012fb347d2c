"""Output that takes long to write waits for its turn, and stands in no other's way."""

import asyncio
import functools
import itertools
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from vgate.frontend.engines.output import deferred
from vgate.frontend.engines.output.deferred import Deferred
from vgate.frontend.engines.sequence import BaseAnswer, Sequence
from vgate.wire.logprobs import Logprobs
from vgate.wire.messages import Delta


def in_a_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*arguments: object, **fixtures: object) -> None:
        asyncio.run(test(*arguments, **fixtures))

    return run


class Reader(BaseAnswer):
    """Notes how much it gets at once."""

    def __init__(self) -> None:
        super().__init__(asyncio.get_running_loop(), 1)
        self.taken: list[int] = []
        self.sizes: list[int] = []

    def flush(self) -> None:
        (sequence,) = self.sequences
        assert len(sequence.pending) == len(sequence.logprobs)
        self.sizes.append(len(sequence.pending))
        self.taken += sequence.pending
        sequence.pending, sequence.logprobs = [], []


def delta(first: int, count: int, **rest: object) -> Delta:
    tokens = list(range(first, first + count))
    return Delta(1, tokens, logprobs=[Logprobs.of((t,), (-1.0,), 1) for t in tokens], **rest)


async def turns(count: int = 50) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


@in_a_loop
async def test_other_threads_get_the_interpreter_soon_while_it_has_output() -> None:
    usual = sys.getswitchinterval()
    reader, failing = Reader(), Reader()
    waiting = Deferred(asyncio.get_running_loop())
    waiting.add(reader.sequences[0], delta(0, 1000))
    assert sys.getswitchinterval() < usual
    while list(waiting):
        await turns(1)
    assert sys.getswitchinterval() == usual
    # Whatever goes wrong in a turn, which ends no other answer's turns.
    failing.flush = None  # type: ignore[assignment, method-assign]
    asyncio.get_running_loop().set_exception_handler(lambda _loop, _context: None)
    waiting.add(failing.sequences[0], delta(0, 1))
    waiting.add(reader.sequences[0], delta(1000, 10))
    await turns(10)
    assert reader.taken == list(range(1010))
    assert sys.getswitchinterval() == usual


@in_a_loop
async def test_gives_everything_in_order_and_the_end_with_the_last_token() -> None:
    reader = Reader()
    (sequence,) = reader.sequences
    waiting = Deferred(asyncio.get_running_loop())
    waiting.add(sequence, delta(0, 1, cached_tokens=3, coalesced=True))
    waiting.add(sequence, delta(1, 1000, prompt_logprobs=[None]))
    waiting.add(sequence, Delta(1, [], "length"))
    assert not reader.sizes
    assert sequence in waiting
    while sequence.finish_reason is None:
        assert sequence.prompt_logprobs in (None, [None])
        await asyncio.sleep(0)
    assert reader.taken == list(range(1001))
    assert (sequence.cached_tokens, sequence.coalesced) == (3, True)
    assert sequence not in waiting


@in_a_loop
async def test_a_long_one_is_read_in_parts_in_turn_with_others() -> None:
    class Short(Reader):
        def flush(self) -> None:
            super().flush()
            before.append(len(long.taken))

    before: list[int] = []
    long, short = Reader(), Short()
    waiting = Deferred(asyncio.get_running_loop())
    waiting.add(long.sequences[0], delta(0, 10_000, finish_reason="stop"))
    waiting.add(short.sequences[0], delta(0, 1))
    await turns(500)
    assert before[0] < 200
    assert len(long.taken) == 10_000
    assert max(long.sizes) < 200
    assert long.sequences[0].finish_reason == "stop"


@in_a_loop
async def test_the_loop_gets_its_turn_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deferred, "_TURN_S", 1.5)
    monkeypatch.setattr(deferred, "perf_counter", itertools.count().__next__)
    readers = [Reader() for _ in range(5)]
    waiting = Deferred(asyncio.get_running_loop())
    for reader in readers:
        waiting.add(reader.sequences[0], delta(0, 1))
    await turns(2)
    assert 0 < sum(len(reader.sizes) for reader in readers) < 5
    await turns()
    assert all(reader.taken == [0] for reader in readers)


@in_a_loop
async def test_what_is_dropped_is_not_read() -> None:
    kept, dropped = Reader(), Reader()
    waiting = Deferred(asyncio.get_running_loop())
    for reader in (kept, dropped):
        waiting.add(reader.sequences[0], delta(0, 10))
    waiting.drop(dropped.sequences[0])
    waiting.drop(dropped.sequences[0])
    await turns()
    assert (len(kept.taken), dropped.taken) == (10, [])


@in_a_loop
async def test_much_that_is_dropped_is_freed_in_parts() -> None:
    reader = Reader()
    waiting = Deferred(asyncio.get_running_loop())
    for first in range(1000):
        waiting.add(reader.sequences[0], delta(first, 1))
    waiting.drop(reader.sequences[0])
    assert [len(deltas) for deltas in waiting._dropped] == [1000]
    await turns()
    assert not waiting._dropped
    assert not reader.taken


@in_a_loop
async def test_an_answer_may_drop_its_sequence_while_it_reads() -> None:
    class Leaves(Reader):
        def flush(self) -> None:
            super().flush()
            waiting.drop(self.sequences[0])

    reader = Leaves()
    waiting = Deferred(asyncio.get_running_loop())
    waiting.add(reader.sequences[0], delta(0, 1000))
    await turns()
    assert 0 < len(reader.taken) < 200


class WholeReader(Reader):
    """Reads token by token, without log probabilities."""

    def __init__(self) -> None:
        super().__init__()
        self.sequences[0].by_token = True

    def flush(self) -> None:
        self.sequences[0].logprobs = [Logprobs.of((), (), 1)] * len(self.sequences[0].pending)
        super().flush()


def whole(count: int) -> Delta:
    return Delta(1, list(range(count)), "stop")


@in_a_loop
async def test_what_is_read_token_by_token_waits_if_it_comes_whole() -> None:
    reader, plain = WholeReader(), Reader()
    waiting = Deferred(asyncio.get_running_loop())
    (sequence,) = reader.sequences
    assert waiting.takes(sequence, whole(1000))
    assert not waiting.takes(sequence, whole(3))
    # Those that come after them would overtake them.
    assert not waiting.takes(sequence, Delta(1, list(range(1000))))
    assert not waiting.takes(plain.sequences[0], whole(1000))
    assert waiting.takes(plain.sequences[0], delta(0, 1))


@in_a_loop
async def test_whole_answers_are_read_in_parts_beside_log_probabilities() -> None:
    reader, long = WholeReader(), Reader()
    waiting = Deferred(asyncio.get_running_loop())
    waiting.add(long.sequences[0], delta(0, 10_000, finish_reason="stop"))
    waiting.add(reader.sequences[0], whole(10_000))
    await turns(1000)
    assert reader.taken == long.taken == list(range(10_000))
    assert 16 < max(reader.sizes) < 200
    assert reader.sequences[0].finish_reason == "stop"
    assert reader.sequences[0] not in waiting
    dropped = WholeReader()
    waiting.add(dropped.sequences[0], whole(1000))
    waiting.drop(dropped.sequences[0])
    await turns()
    assert not dropped.taken


@pytest.mark.parametrize(("others_s", "longest"), [(0, 1), (4, 2), (100, 4)])
@in_a_loop
async def test_whole_answers_have_a_share_of_a_busy_loop(
    monkeypatch: pytest.MonkeyPatch, others_s: int, longest: int
) -> None:
    now = 1

    class Slow(WholeReader):
        def flush(self) -> None:
            nonlocal now
            super().flush()
            now += 1
            flushes[-1] += 1

    def others() -> None:
        nonlocal now
        now += others_s
        flushes.append(0)
        if not all(reader.taken for reader in readers):
            loop.call_soon(others)

    flushes = [0]
    monkeypatch.setattr(deferred, "perf_counter", lambda: now)
    monkeypatch.setattr(deferred, "_TURN_S", 1)
    monkeypatch.setattr(deferred, "_LONGEST_TURN_S", 4)
    loop, readers = asyncio.get_running_loop(), [Slow() for _ in range(20)]
    waiting = Deferred(loop)
    for reader in readers:
        waiting.add(reader.sequences[0], whole(20))
    loop.call_soon(others)
    await turns()
    assert all(reader.taken for reader in readers)
    assert flushes[0] == 1
    assert max(flushes) == longest


def test_a_sequence_is_one_key() -> None:
    assert Sequence.__eq__ is object.__eq__
