"""Events with numbers, which another worker gives the same ones."""

import contextlib
import itertools

import pytest

from vgate.frontend.answers import resumable
from vgate.frontend.answers.encoder import KEEP_ALIVE_COMMENT, ChoiceDelta
from vgate.frontend.answers.resumable import NumberedEvents, Readers
from vgate.frontend.ids import Ids, new_id

SEED = b"x" * 16
TOKENS = 4


class Encoder:
    """Says what it was asked for, and makes an id for each event."""

    keep_alive = b": nothing\n\n"
    counts = None

    def _event(self, *parts) -> bytes:
        return f"data: {new_id('i')} {parts}\n\n".encode()

    def begin(self) -> bytes:
        return b""

    def open(self, index, _logprobs) -> bytes:
        return self._event(index, "open")

    def text(self, index, text) -> bytes:
        return self._event(index, text)

    def delta(self, index, piece) -> bytes:
        return self._event(index, piece) + self._event(index, "more")

    def finish(self, index, reason, _stop, last=None) -> bytes:
        return self._event(index, reason, last)

    def end(self) -> bytes:
        return self._event("end")

    def error(self, error) -> bytes:
        return b"data: error\n\n"


def made(order, received) -> list[str]:
    """Return the events of two choices that take turns in this order, each to its end."""
    events = NumberedEvents(Encoder(), "s", Ids(SEED), list(received))
    steps = [0, 0]
    out = [events.begin()]
    for index in order:
        step = steps[index]
        steps[index] += 1
        if step == 0:
            out.append(events.open(index, None))
        elif step < TOKENS:
            out.append(events.text(index, str(step)))
            out.append(events.delta(index, ChoiceDelta(str(step))))
        else:
            out.append(events.finish(index, "stop", None))
    out.append(events.end())
    return [event for event in b"".join(out).decode().split("\n\n") if event]


def by_choice(events) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for event in events:
        data = event.partition("data: ")[2]
        found.setdefault("1" if "1" in data.partition(" ")[2][:3] else "0", []).append(data)
    return found


ORDERS = [[0] * 5 + [1] * 5, [1] * 5 + [0] * 5, [0, 1] * 5, [1, 1, 0, 0, 0, 1, 1, 0, 0, 1]]


@pytest.mark.parametrize(("first", "second", "third"), list(itertools.product(ORDERS, repeat=3)))
def test_cut_twice_each_choice_comes_once(first, second, third):
    whole = by_choice(made(first, [0, 0]))
    for at in range(1, len(made(first, [0, 0]))):
        got = made(first, [0, 0])[:at]
        rest = made(second, place_of(got[-1]))
        got += rest[: max(1, len(rest) // 2)]
        got += made(third, place_of(got[-1]))
        assert by_choice(got) == whole


def place_of(event: str) -> list[int]:
    return [int(n) for n in event.partition("\n")[0].rpartition(":")[2].split(".")]


def test_a_keep_alive_and_an_error_have_no_number():
    events = NumberedEvents(Encoder(), "s", Ids(SEED), [0])
    assert events.keep_alive == b": nothing\n\n"
    events._encoder.keep_alive = KEEP_ALIVE_COMMENT
    assert events.keep_alive == b": keep-alive\n"
    assert events.error(RuntimeError()) == b"data: error\n\n"
    assert not events.begun
    events.text(0, "x")
    assert events.begun


def test_ids_are_the_same_only_for_the_same_seed():
    def some(seed):
        ids = Ids(seed)
        return [ids.make(part, "a") for part in (0, 1, 0, -1)]

    assert some(SEED) == some(SEED)
    assert len({*some(SEED), *some(b"y" * 16)}) == 8
    assert new_id("a") != new_id("a")


class Slow:
    """An answer that has so many parts to read, each of which takes a millisecond."""

    def __init__(self, clock, parts: int) -> None:
        self._clock = clock
        self.left = parts
        self.error: Exception | None = None

    def read(self) -> bool:
        if self.error is not None:
            raise self.error
        self._clock.now += 0.001
        self.left -= 1
        return self.left > 0


class Clock:
    def __init__(self) -> None:
        self.now = 1.0

    def __call__(self) -> float:
        return self.now


class Loop:
    """Runs what is to come soon, one iteration at a time."""

    def __init__(self) -> None:
        self.soon = []

    def call_soon(self, callback) -> None:
        self.soon.append(callback)

    def iterate(self) -> None:
        soon, self.soon = self.soon, []
        for callback in soon:
            with contextlib.suppress(RuntimeError):
                callback()


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(resumable, "perf_counter", clock)
    return clock


def test_streams_that_have_much_to_read_share_a_turn(clock):
    loop = Loop()
    readers, answers = Readers(loop), [Slow(clock, 5) for _ in range(40)]
    for answer in answers:
        readers.add(answer)
    longest = clock.now - 1.0
    while loop.soon:
        before = clock.now
        loop.iterate()
        longest = max(longest, clock.now - before)
        # Each gets its turn before one has three more than another.
        left = [answer.left for answer in answers if answer.left]
        assert not left or max(left) - min(left) <= 2
    assert not any(answer.left for answer in answers)
    assert longest < 0.0021


def test_a_busy_loop_reads_for_longer(clock):
    loop = Loop()
    readers, answer = Readers(loop), Slow(clock, 20)
    readers.add(answer)
    turns = 0
    while loop.soon:
        loop.iterate()
        clock.now += 0.1
        turns += 1
    assert turns < 10


def test_an_error_in_one_answer_leaves_the_others_their_turns(clock):
    loop = Loop()
    readers, answers = Readers(loop), [Slow(clock, 3) for _ in range(3)]
    for answer in answers:
        readers.add(answer)
    answers[1].error = RuntimeError()
    while loop.soon:
        loop.iterate()
    assert [answer.left for answer in answers] == [0, 3, 0]


def test_an_answer_that_has_ended_has_no_turn(clock):
    loop = Loop()
    readers, answers = Readers(loop), [Slow(clock, 3) for _ in range(2)]
    for answer in answers:
        readers.add(answer)
    readers.discard(answers[1])
    while loop.soon:
        loop.iterate()
    assert [answer.left for answer in answers] == [0, 3]
