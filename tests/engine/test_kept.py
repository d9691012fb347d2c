"""Sequences that are kept for a client that has lost its connection."""

import msgspec
import pytest

from tests.engine.fakes import Bench, generate, held_by
from vgate.engine.delivery import Subscriptions
from vgate.engine.kept import KeptStreams
from vgate.engine.loop import HEARTBEAT_S
from vgate.engine.request import Request
from vgate.wire.codec import pack_token_ids
from vgate.wire.kept import Claim, Claimed, Keep
from vgate.wire.logprobs import Logprobs
from vgate.wire.messages import Abort, Failures, Generate, Goodbye
from vgate.wire.parameters import GenerateOptions

A, B, C = b"a", b"b", b"c"
KEEP_S = 10.0
NAME, OTHER_NAME = b"stream", b"response"


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.welcome(A, B, C)
    return bench


def kept(number: int, index: int = 0, *, joins: bool = False, **options) -> Generate:
    request = b"" if joins or index else b"the request"
    keep = Keep([NAME, OTHER_NAME], index, KEEP_S, request, joins)
    message = generate(number, **{"max_tokens": 6, **options})
    return msgspec.structs.replace(message, keep=keep)


def tokens(bench: Bench, peer: bytes, number: int) -> list[int]:
    return [token for delta in bench.deltas(peer, number) for token in delta.token_ids]


def ends(bench: Bench, peer: bytes, number: int) -> list[str]:
    return [d.finish_reason for d in bench.deltas(peer, number) if d.finish_reason]


def claim(bench: Bench, peer: bytes, name: bytes = NAME) -> Claimed:
    bench.say(peer, Claim(1, name))
    bench.turn()
    answers = [m for to, m in bench.transport.sent if to == peer and isinstance(m, Claimed)]
    return answers[-1]


def errors(bench: Bench, peer: bytes) -> list[tuple[int, str]]:
    failures = [m for to, m in bench.transport.sent if to == peer and isinstance(m, Failures)]
    return [(each.id, each.code) for message in failures for each in message.failures]


def pass_time(bench: Bench, seconds: float) -> None:
    for _ in range(round(seconds / HEARTBEAT_S) + 2):
        bench.clock.now += HEARTBEAT_S
        bench.turn()


@pytest.mark.parametrize("name", [NAME, OTHER_NAME])
@pytest.mark.parametrize("after", range(8))
def test_a_killed_frontends_stream_goes_on_and_is_taken_up(bench, after, name):
    bench.say(A, kept(1))
    bench.turn(after)
    bench.transport.gone.add(A)
    bench.turn(1)
    found = claim(bench, B, name)
    assert found.request == b"the request"
    # It has counted neither these tokens nor the prompt, unless it has got the last one.
    assert found.counted in ({0: -1}, {0: 6})
    assert after > 4 or found.counted == {0: -1}
    bench.say(B, kept(7, joins=True))
    bench.settle()
    assert tokens(bench, B, 7) == [1, 2, 3, 4, 5, 6]
    assert ends(bench, B, 7) == ["length"]
    assert len(bench.backend.added) == 1


def test_a_stream_that_has_finished_is_replayed_until_its_time_is_over(bench):
    bench.say(A, kept(1))
    bench.settle()
    for number in (7, 8):
        assert claim(bench, B).counted == {0: 6}
        bench.say(B, kept(number, joins=True))
        bench.settle()
        assert tokens(bench, B, number) == [1, 2, 3, 4, 5, 6]
        assert ends(bench, B, number) == ["length"]
    pass_time(bench, KEEP_S)
    assert claim(bench, B) == Claimed(1)
    bench.say(B, kept(9, joins=True))
    bench.settle()
    assert errors(bench, B) == [(9, "stream_not_found")]


def test_the_first_reader_is_superseded_by_a_claim(bench):
    bench.say(A, kept(1, max_tokens=20))
    bench.turn(3)
    seen = tokens(bench, A, 1)
    assert claim(bench, B).counted == {0: len(seen)}
    bench.turn(2)
    assert errors(bench, A) == [(1, "stream_taken_over")]
    assert tokens(bench, A, 1) == seen
    bench.say(A, Abort([1]))  # as a frontend does with an answer that failed
    bench.say(B, kept(7, joins=True))
    bench.settle()
    assert tokens(bench, B, 7) == list(range(1, 21))
    # Those of the time without a reader are counted by the one that came back.
    assert claim(bench, C).counted == {0: 20}


def test_of_two_that_claim_the_last_to_join_has_it(bench):
    bench.say(A, kept(1, max_tokens=20))
    bench.turn(2)
    claim(bench, B)
    claim(bench, C)
    bench.say(C, kept(8, joins=True))
    bench.turn()
    bench.say(B, kept(7, joins=True))
    bench.settle()
    assert errors(bench, C) == [(8, "stream_taken_over")]
    assert tokens(bench, B, 7) == list(range(1, 21))
    assert ends(bench, C, 8) == []


def test_what_nobody_takes_up_is_stopped(bench):
    bench.say(A, kept(1, max_tokens=90))
    bench.turn(2)
    bench.say(A, Goodbye())
    bench.turn(2)
    assert held_by(bench.scheduler)
    pass_time(bench, KEEP_S)
    assert not held_by(bench.scheduler)
    assert claim(bench, B) == Claimed(1)


def test_tokens_without_a_reader_are_not_counted_twice_or_lost(bench):
    bench.say(A, kept(1, max_tokens=20))
    bench.turn(3)
    first = claim(bench, B).counted[0]
    bench.turn(3)
    assert claim(bench, C).counted == {0: first}


def test_a_stream_that_its_frontend_stopped_has_its_tokens_and_an_end(bench):
    bench.say(A, kept(1, max_tokens=20))
    bench.turn(4)
    bench.say(A, Abort([1]))
    bench.turn()
    assert not held_by(bench.scheduler)
    claim(bench, B)
    bench.say(B, kept(7, joins=True))
    bench.settle()
    assert tokens(bench, B, 7) == tokens(bench, A, 1) != []
    assert errors(bench, B) == [(7, "stream_not_found")]


def test_an_identical_request_does_not_end_a_kept_one_when_it_leaves(bench):
    bench.say(A, kept(1, max_tokens=20, dedup_key=b"same"))
    bench.turn(2)
    bench.say(B, generate(5, max_tokens=20, dedup_key=b"same"))
    bench.turn()
    bench.transport.gone.add(A)
    bench.turn()
    bench.say(B, Abort([5]))
    bench.turn()
    claim(bench, C)
    bench.say(C, kept(7, joins=True, dedup_key=b"same"))
    bench.settle()
    assert tokens(bench, C, 7) == list(range(1, 21))


def test_two_streams_that_share_a_sequence_are_kept_each(bench):
    bench.say(A, kept(1, max_tokens=20, dedup_key=b"same"))
    bench.turn(2)
    other = msgspec.structs.replace(
        generate(2, max_tokens=20, dedup_key=b"same"), keep=Keep([b"2nd"], 0, KEEP_S)
    )
    bench.say(B, other)
    bench.turn()
    bench.say(A, Goodbye())
    bench.say(B, Abort([2]))
    bench.turn()
    assert claim(bench, C, b"2nd").counted == {0: len(tokens(bench, B, 2))}
    bench.say(C, kept(7, joins=True))
    bench.settle()
    assert tokens(bench, C, 7) == list(range(1, 21))


def test_what_another_engine_generated_belongs_to_it(bench):
    message = msgspec.structs.replace(kept(1), generated=pack_token_ids([50, 51]))
    bench.say(A, message)
    bench.turn(2)
    new = tokens(bench, A, 1)
    claim(bench, B)
    bench.say(B, kept(7, joins=True))
    bench.settle()
    assert tokens(bench, B, 7)[: 2 + len(new)] == [50, 51, *new]


def test_a_new_stream_of_the_same_name_replaces_an_earlier_one(bench):
    bench.say(A, kept(1, max_tokens=90))
    bench.turn(2)
    bench.say(A, Goodbye())
    bench.turn()
    bench.say(B, kept(2, max_tokens=80))
    bench.turn()
    pass_time(bench, 2 * HEARTBEAT_S)
    assert [request.max_tokens for request in held_by(bench.scheduler)] == [80]
    claim(bench, C)
    bench.say(C, kept(7, joins=True))
    bench.settle()
    assert tokens(bench, C, 7) == list(range(1, 81))


def test_log_probabilities_of_another_engine_are_not_there(bench):
    message = msgspec.structs.replace(
        kept(1), generated=pack_token_ids([50, 51]), options=GenerateOptions(logprobs=1)
    )
    bench.say(A, message)
    bench.turn(2)
    assert claim(bench, B) == Claimed(1)


def test_sequences_of_one_stream_are_claimed_together(bench):
    bench.say(A, kept(1), kept(2, index=1))
    bench.turn(2)
    found = claim(bench, B)
    assert found.counted.keys() == {0, 1}
    assert sorted(errors(bench, A)) == [(1, "stream_taken_over"), (2, "stream_taken_over")]
    bench.say(B, kept(7, joins=True), kept(8, index=1, joins=True))
    bench.settle()
    assert tokens(bench, B, 7) == tokens(bench, B, 8) == [1, 2, 3, 4, 5, 6]


ONE = Logprobs.of([1], [0.0], 1)


@pytest.mark.parametrize(
    ("prompt_tokens", "logprobs", "of_prompt", "kept"),
    [
        (1, None, None, 7),
        (10, None, None, 2),
        (1, [ONE], None, 3),
        (1, None, [None], 7),
        (2, None, [None, ONE], 2),
        (2, [ONE], [None, ONE], 1),
    ],
)
def test_what_is_kept_is_bounded(prompt_tokens, logprobs, of_prompt, kept):
    subscriptions = Subscriptions()
    streams = KeptStreams(subscriptions, max_bytes=1000)
    for number in range(100):
        request = Request(str(number), [1] * prompt_tokens, None)
        request.output_logprobs, request.prompt_logprobs = logprobs, of_prompt
        keep = Keep([str(number).encode()], 0, KEEP_S, b"x" * 100)
        message = msgspec.structs.replace(generate(number), keep=keep)
        subscriptions.add(request, (A, number))
        streams.add(message, request, (A, number))
        streams.finish(request, 0.0)
        assert streams._bytes <= 1000
    found = [n for n in range(100) if streams.claim(Claim(1, str(n).encode()), 0.0)[0].request]
    assert found == list(range(100 - kept, 100))
    assert streams.expire(KEEP_S) == []
    assert (streams._bytes, streams._streams, streams._by_reader) == (0, {}, {})
