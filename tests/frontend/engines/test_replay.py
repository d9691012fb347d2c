"""A sequence that is generated again: its answer gets each token once, or an error."""

import pytest

from vgate.frontend.engines.replay import Replay
from vgate.frontend.engines.sequence import Sequence
from vgate.wire.logprobs import Logprobs

SEEN = [5, 6, 7]


class Answer:
    """Takes what is pending of all its sequences, as an answer does."""

    touched = False

    def __init__(self, count):
        self.sequences = [Sequence(self, index) for index in range(count)]
        self.taken = [[] for _ in range(count)]
        self.logprobs = []
        self.ends = []
        self.aside = set()

    def flush(self):
        for sequence in self.sequences:
            if sequence.error or sequence.finish_reason:
                self.ends.append(sequence.error or sequence.finish_reason)
            if not sequence.error and sequence.index not in self.aside:
                self.taken[sequence.index] += sequence.pending
                self.logprobs += sequence.logprobs
                sequence.pending, sequence.logprobs = [], []

    def set_aside(self, sequence, *, aside):
        (self.aside.add if aside else self.aside.remove)(sequence.index)


def replayed():
    answer = Answer(1)
    (sequence,) = answer.sequences
    sequence.generated = list(SEEN)
    Replay(sequence)
    return sequence, answer


def feed(sequence, tokens, finish_reason=None, logprobs=()):
    """Have the engine generate tokens."""
    sequence.pending += tokens
    sequence.logprobs += logprobs
    sequence.finish_reason = finish_reason
    sequence.answer.flush()


def cut(tokens):
    """Return every way to divide tokens into steps."""
    for cuts in range(2 ** (len(tokens) - 1)):
        steps = [[tokens[0]]]
        for index, token in enumerate(tokens[1:]):
            if cuts >> index & 1:
                steps.append([])
            steps[-1].append(token)
        yield steps


@pytest.mark.parametrize("steps", list(cut([*SEEN, 8, 9])))
def test_the_answer_gets_what_is_new_however_it_arrives(steps):
    sequence, answer = replayed()
    for index, step in enumerate(steps):
        last = index == len(steps) - 1
        logprobs = [Logprobs.of((token,), (-1.0,), 1) for token in step]
        feed(sequence, step, "stop" if last else None, logprobs)
    assert answer.taken == [[8, 9]]
    assert [entry.token_id for entry in answer.logprobs] == [8, 9]
    assert answer.ends == ["stop"]
    assert sequence.answer is answer


def test_the_answer_hears_nothing_until_then():
    sequence, answer = replayed()
    feed(sequence, SEEN[:2])
    assert sequence.answer is not answer
    feed(sequence, SEEN[2:])
    assert sequence.answer is answer
    assert (answer.taken, answer.ends, sequence.pending) == ([[]], [], [])


@pytest.mark.parametrize("steps", list(cut([5, 6, 99, 8])))
def test_another_token_is_an_error_and_nothing_of_it_is_taken(steps):
    sequence, answer = replayed()
    for step in steps:
        feed(sequence, step)
        if sequence.error:
            break
    assert answer.taken == [[]]
    assert [end.code for end in answer.ends] == ["engine_unavailable"]
    assert "wrote another answer" in sequence.error.message


def test_an_earlier_end_is_an_error():
    sequence, answer = replayed()
    feed(sequence, SEEN[:2], "stop")
    assert [end.code for end in answer.ends] == ["engine_unavailable"]


def test_an_end_where_it_was_is_none():
    sequence, answer = replayed()
    feed(sequence, SEEN, "length")
    assert (answer.ends, answer.taken) == (["length"], [[]])


def test_the_engine_s_own_error_passes():
    sequence, answer = replayed()
    sequence.error = error = ValueError("too late")
    sequence.answer.flush()
    assert answer.ends == [error]
    assert sequence.answer is answer


def test_an_engine_that_dies_meanwhile_is_followed_by_another_replay():
    sequence, answer = replayed()
    feed(sequence, SEEN[:2])
    assert sequence.answer.restart(sequence)
    feed(sequence, [*SEEN, 8])
    assert (answer.taken, sequence.answer) == ([[8]], answer)


def test_an_answer_that_reads_one_sequence_leaves_the_others_that_are_behind():
    answer = Answer(2)
    for sequence in answer.sequences:
        sequence.generated = list(SEEN)
        Replay(sequence)
    first, second = answer.sequences
    # One message has the tokens of both.
    first.pending, second.pending = [*SEEN, 8], SEEN[:2]
    first.answer.flush()
    second.answer.flush()
    assert answer.taken == [[8], []]
    feed(second, [*SEEN[2:], 9])
    assert answer.taken == [[8], [9]]
