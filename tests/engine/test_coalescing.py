"""Identical requests in flight share one sequence."""

import pytest

from tests.engine.fakes import Bench, generate, held_by
from tests.wire.steps import deltas_of
from vgate.engine import delivery
from vgate.engine.backends.base import Output
from vgate.engine.request import RequestError
from vgate.wire.messages import Abort, Embed, Goodbye, Step
from vgate.wire.parameters import GenerateOptions

A, B, C = b"a", b"b", b"c"
DEDUP_KEY = b"digest"


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.welcome(A, B, C)
    return bench


def tokens(bench: Bench, peer: bytes, number: int) -> list[int]:
    return [token for delta in bench.deltas(peer, number) for token in delta.token_ids]


def ends(bench: Bench, peer: bytes, number: int) -> list[str]:
    return [d.finish_reason for d in bench.deltas(peer, number) if d.finish_reason]


def test_identical_requests_get_one_generation(bench):
    bench.say(A, generate(1, max_tokens=5, dedup_key=DEDUP_KEY))
    bench.say(
        B,
        generate(7, max_tokens=5, dedup_key=DEDUP_KEY),
        generate(8, max_tokens=5, dedup_key=DEDUP_KEY),
    )
    bench.settle()
    assert len(bench.backend.added) == 1
    for peer, number in ((A, 1), (B, 7), (B, 8)):
        assert tokens(bench, peer, number) == [1, 2, 3, 4, 5]
        assert ends(bench, peer, number) == ["length"]
    assert [d.coalesced for d in bench.deltas(A, 1)] == [False] * 5
    assert bench.deltas(B, 7)[0].coalesced


@pytest.mark.parametrize("after", range(6))
def test_a_late_subscriber_gets_all_of_it(bench, after):
    bench.say(A, generate(1, max_tokens=6, dedup_key=DEDUP_KEY))
    bench.turn(after)
    bench.say(B, generate(2, max_tokens=6, dedup_key=DEDUP_KEY))
    bench.settle()
    assert tokens(bench, B, 2) == tokens(bench, A, 1) == [1, 2, 3, 4, 5, 6]
    assert ends(bench, B, 2) == ["length"]
    assert len(bench.backend.added) == 1


def test_a_request_after_the_end_starts_a_new_sequence(bench):
    bench.say(A, generate(1, dedup_key=DEDUP_KEY))
    bench.settle()
    bench.say(B, generate(2, dedup_key=DEDUP_KEY))
    bench.settle()
    assert len(bench.backend.added) == 2
    assert not any(d.coalesced for d in bench.deltas(B, 2))


def test_without_a_dedup_key_nothing_is_coalesced(bench):
    bench.say(A, generate(1), generate(2))
    bench.settle()
    assert len(bench.backend.added) == 2


@pytest.mark.parametrize("leave", [Abort([1]), Goodbye()])
def test_the_others_continue_when_the_first_leaves(bench, leave):
    bench.say(A, generate(1, max_tokens=6, dedup_key=DEDUP_KEY))
    bench.turn(2)
    bench.say(B, generate(2, max_tokens=6, dedup_key=DEDUP_KEY))
    bench.turn()
    bench.say(A, leave)
    bench.settle()
    assert tokens(bench, B, 2) == [1, 2, 3, 4, 5, 6]
    assert bench.backend.aborted == []


def test_it_ends_when_the_last_subscriber_leaves(bench):
    bench.say(A, generate(1, max_tokens=90, dedup_key=DEDUP_KEY))
    bench.say(B, generate(2, max_tokens=90, dedup_key=DEDUP_KEY))
    bench.turn(2)
    bench.say(A, Abort([1]))
    bench.turn()
    assert bench.backend.running
    bench.say(B, Abort([2]))
    bench.turn()
    assert not bench.backend.running
    # Nobody may join what was stopped.
    bench.say(C, generate(3, max_tokens=2, dedup_key=DEDUP_KEY))
    bench.settle()
    assert tokens(bench, C, 3) == [1, 2]


def test_the_others_continue_when_a_frontend_dies(bench):
    bench.say(A, generate(1, max_tokens=6, dedup_key=DEDUP_KEY))
    bench.say(B, generate(2, max_tokens=6, dedup_key=DEDUP_KEY))
    bench.turn(2)
    bench.transport.gone.add(A)
    bench.settle()
    assert tokens(bench, B, 2) == [1, 2, 3, 4, 5, 6]


def test_a_failure_reaches_all_subscribers(bench):
    bench.say(A, generate(1, prompt_tokens=5, max_tokens=90, dedup_key=DEDUP_KEY))
    bench.say(B, generate(2, prompt_tokens=5, max_tokens=90, dedup_key=DEDUP_KEY))
    bench.turn()
    (key,) = bench.backend.running
    error = RequestError("internal_error", "over")
    bench.backend.on_step = lambda: [Output(key, [], None, None, error=error)]
    bench.turn()
    assert [f.id for f in bench.failures(A)] == [1]
    assert [f.id for f in bench.failures(B)] == [2]


def test_an_embedding_is_not_for_a_model_that_generates(bench):
    bench.say(A, Embed(1, b"\1\0\0\0"))
    bench.turn()
    assert [(f.id, f.code) for f in bench.failures(A)] == [(1, "invalid_value")]


WITH_LOGPROBS = GenerateOptions(logprobs=0, prompt_logprobs=0)


def logprobs(bench: Bench, peer: bytes, number: int) -> list[float]:
    return [
        value
        for delta in bench.deltas(peer, number)
        for place in delta.logprobs or []
        for value in place.unpack()[1]
    ]


@pytest.mark.parametrize("after", range(6))
def test_a_late_subscriber_gets_all_logprobs(bench, after):
    bench.say(A, generate(1, max_tokens=6, dedup_key=DEDUP_KEY, options=WITH_LOGPROBS))
    bench.turn(after)
    bench.say(B, generate(2, max_tokens=6, dedup_key=DEDUP_KEY, options=WITH_LOGPROBS))
    bench.settle()
    assert len(bench.backend.added) == 1
    assert logprobs(bench, B, 2) == logprobs(bench, A, 1) == [-1, -2, -3, -4, -5, -6]
    of_prompt = [d.prompt_logprobs for d in bench.deltas(B, 2) if d.prompt_logprobs]
    assert of_prompt == [bench.deltas(A, 1)[0].prompt_logprobs]
    shown = [place and place.unpack()[1] for place in of_prompt[0]]
    assert shown == [None, (-1.0,), (-2.0,), (-3.0,), (-4.0,)]
    # They come with the first tokens.
    first = next(d for d in bench.deltas(B, 2) if d.token_ids)
    assert first.prompt_logprobs == of_prompt[0]


def test_nobody_gets_very_many_logprobs_at_once(bench, monkeypatch):
    monkeypatch.setattr(delivery, "_MOST_LOGPROBS", 3)
    bench.say(A, generate(1, max_tokens=9, dedup_key=DEDUP_KEY, options=WITH_LOGPROBS))
    bench.turn(6)
    bench.say(B, generate(2, max_tokens=9, dedup_key=DEDUP_KEY, options=WITH_LOGPROBS))
    bench.settle()
    assert len(bench.backend.added) == 2
    assert logprobs(bench, B, 2) == logprobs(bench, A, 1)


def test_each_delta_has_a_logprob_for_each_token(bench):
    bench.say(A, generate(1, max_tokens=4, dedup_key=DEDUP_KEY, options=WITH_LOGPROBS))
    bench.turn(2)
    bench.say(B, generate(2, max_tokens=4, dedup_key=DEDUP_KEY, options=WITH_LOGPROBS))
    bench.settle()
    for delta in bench.deltas(A, 1) + bench.deltas(B, 2):
        assert len(delta.logprobs or []) == len(delta.token_ids)


def test_no_logprobs_are_kept_unless_requested(bench):
    bench.say(A, generate(1, max_tokens=4, dedup_key=DEDUP_KEY))
    bench.turn(2)
    (request,) = bench.backend.running.values()
    assert (request.output_logprobs, request.prompt_logprobs) == (None, None)
    bench.say(B, generate(2, max_tokens=4, dedup_key=DEDUP_KEY))
    bench.settle()
    for delta in bench.deltas(A, 1) + bench.deltas(B, 2):
        assert (delta.logprobs, delta.prompt_logprobs) == (None, None)


def test_a_request_without_a_dedup_key_keeps_nothing(bench):
    bench.say(A, generate(1, max_tokens=4, options=WITH_LOGPROBS))
    bench.turn(2)
    (request,) = bench.backend.running.values()
    assert (request.output, request.output_logprobs, request.prompt_logprobs) == ([], None, None)


def test_a_more_urgent_request_raises_the_priority(bench):
    bench.say(A, *(generate(number, max_tokens=50) for number in range(4)))
    bench.say(A, generate(10, max_tokens=1), generate(11, max_tokens=1, dedup_key=DEDUP_KEY))
    bench.turn()
    bench.say(B, generate(1, max_tokens=1, dedup_key=DEDUP_KEY, priority=-1))
    bench.turn()
    waiting = held_by(bench.scheduler)
    assert [request.priority for request in waiting if request.dedup_key] == [-1]
    bench.say(A, Abort([0]))
    bench.turn(3)
    assert tokens(bench, B, 1) == tokens(bench, A, 11) == tokens(bench, A, 10) == [1]
    order = [last for step in bench.heard(A, Step) if (last := deltas_of(step)[-1].id) >= 10]
    assert order == [11, 10]
