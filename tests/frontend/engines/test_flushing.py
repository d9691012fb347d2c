"""The more streams there are, the more of a stream's tokens leave in one chunk."""

import asyncio
from collections.abc import Callable

import pytest

from vgate.frontend.engines.output.flushing import Flushing
from vgate.frontend.engines.replay import Replay
from vgate.frontend.engines.sequence import BaseAnswer


class Loop:
    """A clock with timers."""

    def __init__(self):
        self.now = 0.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def call_later(self, delay_s, callback):
        self.timers.append((self.now + delay_s, callback))
        return object()

    def until(self, moment):
        """Let time pass."""
        while due := [timer for timer in self.timers if timer[0] <= moment]:
            first = min(due, key=lambda timer: timer[0])
            self.timers.remove(first)
            self.now = max(self.now, first[0])
            first[1]()
        self.now = moment


class Answer:
    """An answer that keeps what it reads, in chunks."""

    def __init__(self):
        self.touched = False
        self.pending: list[int] = []
        self.chunks: list[list[int]] = []

    def flush(self):
        self.chunks.append(self.pending)
        self.pending = []

    def restart(self, sequence):
        raise AssertionError


@pytest.fixture
def loop():
    return Loop()


@pytest.fixture
def flushing(loop):
    return Flushing(loop, lambda: loop.now)


def step(flushing, answers, token):
    """Let a step's message arrive, with a token of each."""
    for answer in answers:
        answer.pending.append(token)
        if not answer.touched:
            answer.touched = True
            flushing.waiting.append(answer)
    flushing.after_batch()


def steps(loop, flushing, answers, every_s, count=24):
    """Let steps arrive one after the other; return the sizes of the chunks after the first."""
    for token in range(count):
        loop.until(token * every_s)
        step(flushing, answers, token)
    loop.until(loop.now + 1)
    chunks = answers[0].chunks
    assert all(answer.chunks == chunks for answer in answers)
    assert [token for chunk in chunks for token in chunk] == [*range(count)]
    return [len(chunk) for chunk in chunks[1:-1]]


@pytest.mark.parametrize(
    ("streams", "every_s", "size"),
    [
        (1, 0.0005, 1),
        (16, 0.001, 1),
        (64, 0.0033, 1),
        (64, 0.0013, 2),
        (128, 0.0037, 1),
        (256, 0.008, 1),
        (256, 0.005, 2),
        (256, 0.002, 5),
        (512, 0.01, 2),
        (2000, 0.025, 1),
        (2000, 0.01, 2),
    ],
)
def test_more_streams_and_faster_steps_make_larger_chunks(loop, flushing, streams, every_s, size):
    sizes = steps(loop, flushing, [Answer() for _ in range(streams)], every_s)
    assert sizes == [size] * len(sizes)


def test_tokens_leave_in_time_if_no_step_follows(loop, flushing):
    answers = [Answer() for _ in range(256)]
    for token in (1, 2, 3):
        loop.until(token * 0.001)
        step(flushing, answers, token)
    loop.until(0.0117)
    assert all(answer.chunks == [[1]] for answer in answers)
    loop.until(0.0118)
    assert all(answer.chunks == [[1], [2, 3]] for answer in answers)
    assert not loop.timers
    assert not flushing.waiting


def test_tokens_that_were_flushed_leave_no_timer_that_flushes_the_next_too_early(loop, flushing):
    answers = [Answer() for _ in range(256)]
    for token in (1, 2):
        loop.until(token * 0.001)
        step(flushing, answers, token)
    loop.until(0.01)
    flushing.flush()
    loop.until(0.0105)
    step(flushing, answers, 3)
    loop.until(0.02)
    assert answers[0].chunks == [[1], [2]]
    loop.until(0.0246)
    assert answers[0].chunks == [[1], [2], [3]]


def test_what_an_answer_has_read_since_is_not_read_again(loop, flushing):
    answers = [Answer() for _ in range(256)]
    first = answers[0]
    step(flushing, answers, 1)
    loop.until(0.001)
    step(flushing, answers, 2)
    first.touched = False  # as a delta does
    first.flush()
    loop.until(0.002)
    step(flushing, answers, 3)
    loop.until(0.02)
    assert first.chunks == [[1], [2], [3]]
    assert all(answer.chunks == [[1], [2, 3]] for answer in answers[1:])


def test_an_answer_that_fails_to_read_keeps_no_other_from_it(loop, flushing, caplog):
    answers = [Answer() for _ in range(3)]
    answers[0].flush = answers[2].flush = lambda: 1 / 0
    step(flushing, answers, 1)
    urgent = Answer()
    flushing.after_batch([answers[0], urgent])
    assert (answers[1].chunks, urgent.chunks) == ([[1]], [[]])
    assert not any(answer.touched for answer in answers)
    assert caplog.text.count("an answer could not read its tokens") == 3


def test_what_waits_of_a_closed_answer_is_read_by_nobody(flushing):
    class Closed(BaseAnswer):
        def set_aside(self, sequence, *, aside):
            pass

    real = asyncio.new_event_loop()
    plain, repeated = Closed(real, 1), Closed(real, 1)
    (sequence,) = repeated.sequences
    sequence.generated = [1, 2]
    replay = Replay(sequence)
    sequence.pending = [1, 2]
    for reader in (plain, replay):
        reader.touched = True
        flushing.waiting.append(reader)
    plain.close()
    repeated.close()
    flushing.flush()
    # It would refer to the answer again, which only the garbage collector would free then.
    assert not hasattr(sequence, "answer")
    real.close()
