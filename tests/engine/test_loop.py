"""The loop against a scripted backend: every request leaves by exactly one way."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.engine.fakes import MODEL, Bench, generate, held_by
from tests.wire.steps import deltas_of
from vgate.engine.backends.base import Facts, Output
from vgate.engine.loop import HEARTBEAT_S
from vgate.engine.request import RequestError
from vgate.wire.codec import encode, pack_token_ids
from vgate.wire.messages import (
    PROTOCOL_VERSION,
    Abort,
    Ending,
    Failure,
    Failures,
    Generate,
    Goodbye,
    Hello,
    Refused,
    Status,
    Step,
    Welcome,
)
from vgate.wire.parameters import DEFAULTS, SamplingParams

A, B = b"frontend-a", b"frontend-b"


@pytest.fixture
def bench():
    return Bench()


@pytest.fixture
def greeted(bench):
    bench.welcome(A, B)
    return bench


class TestHello:
    def test_the_same_protocol_is_welcome(self, bench):
        bench.say(A, Hello(PROTOCOL_VERSION, "a"))
        bench.turn()
        assert bench.heard(A)[0] == Welcome(PROTOCOL_VERSION, MODEL)

    @pytest.mark.parametrize("protocol", [PROTOCOL_VERSION - 1, PROTOCOL_VERSION + 1])
    def test_another_protocol_is_refused_with_both_versions(self, bench, protocol):
        bench.say(A, Hello(protocol, "a"), generate(1))
        bench.turn()
        refused = bench.heard(A, Refused)
        assert refused[0].protocol == PROTOCOL_VERSION
        assert str(protocol) in refused[0].reason
        assert str(PROTOCOL_VERSION) in refused[0].reason
        assert bench.heard(A, Welcome) == []
        assert bench.backend.added == []

    def test_a_request_without_hello_is_refused(self, bench):
        bench.say(A, generate(1))
        bench.turn()
        assert [type(m) for m in bench.heard(A)] == [Refused]
        assert bench.backend.added == []

    def test_hello_again_keeps_what_runs(self, greeted):
        greeted.say(A, generate(1, max_tokens=5))
        greeted.turn()
        greeted.say(A, Hello(PROTOCOL_VERSION, "a"))
        greeted.settle()
        assert len(greeted.deltas(A, 1)) == 5


class TestGenerate:
    def test_tokens_come_in_order_and_the_last_has_the_finish_reason(self, greeted):
        greeted.say(A, generate(1, max_tokens=3))
        greeted.settle()
        deltas = greeted.deltas(A, 1)
        assert [d.token_ids for d in deltas] == [[1], [2], [3]]
        assert [d.finish_reason for d in deltas] == [None, None, "length"]

    def test_the_finish_reason_is_the_backend_s(self, greeted):
        greeted.backend.finish = "stop"
        greeted.say(A, generate(1))
        greeted.settle()
        assert greeted.deltas(A, 1)[-1].finish_reason == "stop"

    def test_numbers_of_different_frontends_do_not_mix(self, greeted):
        greeted.say(A, generate(1, max_tokens=2))
        greeted.say(B, generate(1, max_tokens=4))
        greeted.settle()
        assert len(greeted.deltas(A, 1)) == 2
        assert len(greeted.deltas(B, 1)) == 4

    def test_one_message_a_frontend_and_step(self, greeted):
        for number in (1, 2):
            greeted.say(A, generate(number))
            greeted.say(B, generate(number))
        greeted.settle()
        assert greeted.backend.steps == 3
        for peer in (A, B):
            steps = greeted.heard(peer, Step)
            assert [[d.id for d in deltas_of(step)] for step in steps] == [[1, 2]] * 3

    def test_cached_tokens_are_passed_on(self, greeted):
        greeted.say(A, generate(1))
        greeted.backend.on_step = lambda: [
            Output(key, [1], None, Facts(4)) for key in greeted.backend.running
        ]
        greeted.turn()
        assert greeted.deltas(A, 1)[0].cached_tokens == 4

    def test_a_new_request_joins_the_running_batch_at_the_next_step(self, greeted):
        greeted.say(A, generate(1, max_tokens=10))
        greeted.turn(2)
        greeted.say(B, generate(1, max_tokens=10))
        greeted.turn()
        assert len(greeted.backend.running) == 2
        assert [d.token_ids for d in greeted.deltas(B, 1)] == [[1]]

    def test_the_context_limits_the_output(self, greeted):
        greeted.say(A, generate(1, prompt_tokens=95, max_tokens=50))
        greeted.say(A, generate(2, prompt_tokens=97, max_tokens=None))
        greeted.settle()
        assert len(greeted.deltas(A, 1)) == MODEL.max_model_len - 95
        assert len(greeted.deltas(A, 2)) == MODEL.max_model_len - 97

    @pytest.mark.parametrize(
        ("message", "code"),
        [
            (generate(1, prompt_tokens=0), "invalid_value"),
            (generate(1, prompt_tokens=100), "context_length_exceeded"),
            (generate(1, prompt_tokens=5000), "context_length_exceeded"),
            (Generate(1, b"\0\0\0", SamplingParams()), "internal_error"),
        ],
        ids=["empty", "no room", "too long", "broken"],
    )
    def test_a_bad_prompt_fails_alone(self, greeted, message, code):
        greeted.say(A, message, generate(2))
        greeted.settle()
        ((failure,),) = [greeted.failures(A)]
        assert (failure.id, failure.code) == (1, code)
        assert greeted.deltas(A, 2)[-1].finish_reason == "length"

    def test_a_full_queue_fails_with_retry_after(self):
        bench = Bench(max_num_seqs=1, max_queue_size=2)
        bench.welcome(A)
        bench.say(A, generate(1, max_tokens=50))
        bench.turn()
        bench.say(A, generate(2), generate(3), generate(4), generate(5))
        bench.turn()
        failures = bench.failures(A)
        assert [(f.id, f.code) for f in failures] == [(4, "overloaded"), (5, "overloaded")]
        assert all(f.retry_after_s >= 1 for f in failures)
        bench.settle()
        assert bench.deltas(A, 3)[-1].finish_reason == "length"

    def test_a_number_used_twice_does_not_end_the_engine(self, greeted):
        # A frontend's fault; it must stay with that frontend, waiting or running.
        greeted.say(A, generate(1), generate(1))
        greeted.turn()
        greeted.say(A, generate(1))
        greeted.say(B, generate(1))
        greeted.settle()
        assert greeted.deltas(B, 1)[-1].finish_reason == "length"

    def test_a_queue_timeout_has_its_own_code(self):
        bench = Bench(max_num_seqs=1)
        bench.welcome(A)
        bench.say(A, generate(1, max_tokens=90), generate(2, queue_timeout_s=0.5))
        bench.settle()
        ((failure,),) = [bench.failures(A)]
        assert (failure.id, failure.code) == (2, "queue_timeout")
        assert failure.retry_after_s is not None
        assert bench.deltas(A, 2) == []
        assert bench.deltas(A, 1)[-1].finish_reason == "length"

    def test_tenant_and_weight_reach_the_scheduler(self, greeted):
        greeted.say(A, generate(1, tenant="alice", weight=2.5))
        greeted.turn()
        (request,) = held_by(greeted.scheduler)
        assert (request.tenant, request.weight) == ("alice", 2.5)


class TestBackendErrors:
    @pytest.mark.parametrize(
        "error", [RequestError("invalid_value", "no"), RequestError("internal_error", "broken")]
    )
    def test_a_request_that_the_backend_refuses_fails_alone(self, greeted, error):
        def refuse(request):
            if request.key == "1":
                raise error

        greeted.backend.refuse = refuse
        greeted.say(A, generate(1), generate(2))
        greeted.settle()
        ((failure,),) = [greeted.failures(A)]
        assert (failure.id, failure.code, failure.reason) == (1, error.code, error.reason)
        assert greeted.deltas(A, 2)[-1].finish_reason == "length"
        assert held_by(greeted.scheduler) == []

    def test_the_failures_of_a_turn_are_one_message_for_each_frontend(self, greeted):
        errors = {
            "1": RequestError("invalid_value", "wrong", "top_p"),
            "2": RequestError("overloaded", "full", retry_after_s=2.0),
            "3": RequestError("overloaded", "full"),
        }

        def refuse(request):
            raise errors[request.key]

        greeted.backend.refuse = refuse
        greeted.say(A, generate(1), generate(2))
        greeted.say(B, generate(1))
        greeted.turn(2)
        assert greeted.heard(A, Failures) == [
            Failures(
                [
                    Failure(1, "invalid_value", "wrong", None, "top_p"),
                    Failure(2, "overloaded", "full", 2.0),
                ]
            )
        ]
        assert greeted.heard(B, Failures) == [Failures([Failure(1, "overloaded", "full")])]

    def test_a_request_that_fails_in_the_backend_fails_alone(self, greeted):
        greeted.say(A, generate(1), generate(2))
        greeted.turn()
        first, second = greeted.backend.added
        error = RequestError("internal_error", "gave up")
        greeted.backend.on_step = lambda: [
            Output(first, [], None, None, error=error),
            Output(second, [9], None, None),
        ]
        greeted.turn()
        assert [(f.id, f.reason) for f in greeted.failures(A)] == [(1, "gave up")]
        assert [d.token_ids for d in greeted.deltas(A, 2)] == [[1], [9]]
        assert [r.subscribers for r in held_by(greeted.scheduler)] == [[(A, 2)]]

    def test_an_exception_in_a_step_ends_the_loop(self, greeted):
        def crash():
            message = "the device is gone"
            raise RuntimeError(message)

        greeted.say(A, generate(1))
        greeted.backend.on_step = crash
        with pytest.raises(RuntimeError, match="the device is gone"):
            greeted.loop.run()

    def test_every_frontend_gets_earlier_failures_and_then_the_end(self, greeted):
        greeted.say(A, generate(1, max_tokens=50), generate(2, prompt_tokens=1000))
        greeted.turn()
        greeted.say(A, generate(3, prompt_tokens=1000))
        greeted.loop._read_inbox()
        greeted.loop.end("of old age")
        assert [f.id for f in greeted.failures(A)] == [2, 3]
        assert greeted.heard(A)[-1] == greeted.heard(B)[-1] == Ending("of old age")

    def test_a_continued_request_gets_new_tokens_within_its_limit(self, greeted):
        begun = pack_token_ids([1, 2, 3])
        greeted.say(A, generate(1, max_tokens=5, generated=begun))
        greeted.turn()
        (request,) = held_by(greeted.scheduler)
        assert (request.continued, request.generated_tokens) == ([1, 2, 3], 4)
        greeted.settle()
        deltas = greeted.deltas(A, 1)
        assert [delta.token_ids for delta in deltas] == [[4], [5]]
        assert deltas[-1].finish_reason == "length"

    def test_a_continued_request_has_no_more_room_than_before(self, greeted):
        begun = pack_token_ids([7] * 4)
        prompt_tokens = MODEL.max_model_len - 5
        greeted.say(A, generate(1, prompt_tokens, None, generated=begun))
        greeted.settle()
        (last,) = greeted.deltas(A, 1)
        assert (last.token_ids, last.finish_reason) == ([5], "length")

    def test_a_continued_request_that_is_complete_is_refused(self, greeted):
        greeted.say(A, generate(1, max_tokens=3, generated=pack_token_ids([1, 2, 3])))
        greeted.turn()
        assert [f.code for f in greeted.failures(A)] == ["internal_error"]

    def test_a_full_queue_accepts_resumed_requests(self):
        bench = Bench(max_num_seqs=1, max_queue_size=1)
        bench.welcome(A)
        bench.say(A, generate(1), *(generate(n, resumed=True) for n in (2, 3)), generate(4))
        bench.settle()
        assert [f.id for f in bench.failures(A)] == [4]

    def test_it_is_told_when_a_resumed_request_begins_before_it_can_do_harm(self):
        bench = Bench(max_num_seqs=1)
        bench.welcome(A)
        bench.say(A, generate(1, max_tokens=3), generate(2, resumed=True))
        bench.turn(2)
        assert bench.deltas(A, 2) == []

        def die(_request):
            raise RuntimeError("out of memory")

        bench.backend.add = die
        with pytest.raises(RuntimeError):
            bench.settle()
        (begun,) = bench.deltas(A, 2)
        assert (begun.token_ids, begun.finish_reason) == ([], None)

    def test_a_start_is_told_with_the_time_in_the_queue(self):
        bench = Bench(max_num_seqs=1)
        bench.welcome(A)
        bench.say(A, generate(1, max_tokens=2), generate(2, max_tokens=1))
        for _ in range(4):
            bench.turn()
        steps = [step for step in bench.heard(A, Step) if step.started]
        assert [[number for number, _ in step.started] for step in steps] == [[1], [2]]
        # In the message with the first token, of which there are two steps before the second.
        assert deltas_of(steps[0])[0].token_ids == [1]
        assert [round(step.started[0][1], 3) for step in steps] == [0, 0.02]

    def test_a_step_that_could_not_run_is_retried_without_spinning(self, greeted):
        greeted.say(A, generate(1))
        answers = [None, None, NotImplemented, NotImplemented, NotImplemented]
        greeted.backend.on_step = lambda: answers.pop(0)
        greeted.transport.waits.clear()
        greeted.settle()
        assert sum(0 < wait <= 0.01 for wait in greeted.transport.waits) >= 2
        assert greeted.deltas(A, 1)[-1].finish_reason == "length"

    def test_outputs_of_unknown_requests_are_ignored(self, greeted):
        greeted.say(A, generate(1, max_tokens=2))
        greeted.turn()
        greeted.backend.on_step = lambda: [Output("stranger", [1], "stop", Facts())]
        greeted.turn()
        assert len(greeted.deltas(A, 1)) == 1


class TestLeaving:
    def test_an_aborted_request_ends_in_silence(self, greeted):
        greeted.say(A, generate(1, max_tokens=50), generate(2, max_tokens=5))
        greeted.turn()
        greeted.say(A, Abort([1]))
        greeted.settle()
        assert len(greeted.deltas(A, 1)) == 1
        assert greeted.backend.aborted == greeted.backend.added[:1]
        assert greeted.failures(A) == []
        assert len(greeted.deltas(A, 2)) == 5
        assert held_by(greeted.scheduler) == []

    def test_a_waiting_request_can_be_aborted(self):
        bench = Bench(max_num_seqs=1)
        bench.welcome(A)
        bench.say(A, generate(1), generate(2))
        bench.turn()
        bench.say(A, Abort([2]))
        bench.settle()
        assert len(bench.backend.added) == 1
        assert bench.failures(A) == []

    def test_an_abort_in_the_same_batch_as_its_request(self, greeted):
        greeted.say(A, generate(1), Abort([1]))
        greeted.settle()
        assert greeted.backend.added == []
        assert greeted.deltas(A, 1) == []

    def test_unknown_and_finished_numbers_are_ignored(self, greeted):
        greeted.say(A, generate(1))
        greeted.settle()
        greeted.say(A, Abort([1, 2, 999]))
        greeted.turn()
        assert greeted.backend.aborted == []

    def test_a_frontend_can_abort_only_its_own_requests(self, greeted):
        greeted.say(A, generate(1, max_tokens=5))
        greeted.turn()
        greeted.say(B, Abort([1]))
        greeted.settle()
        assert greeted.deltas(A, 1)[-1].finish_reason == "length"

    def test_goodbye_aborts_all_requests_of_the_frontend(self):
        bench = Bench(max_num_seqs=1)
        bench.welcome(A, B)
        bench.say(A, generate(1, max_tokens=50), generate(2))
        bench.turn()
        bench.say(A, Goodbye())
        bench.say(B, generate(1))
        bench.settle()
        assert bench.backend.aborted == bench.backend.added[:1]
        assert bench.deltas(A, 2) == []
        assert bench.deltas(B, 1)[-1].finish_reason == "length"
        bench.transport.sent.clear()
        bench.clock.now += HEARTBEAT_S
        bench.turn()
        assert bench.heard(A) == []

    def test_only_the_requests_of_a_lost_peer_are_aborted(self):
        bench = Bench(max_num_seqs=2)
        bench.welcome(A, B)
        bench.say(A, generate(1, max_tokens=50), generate(2, max_tokens=50))
        bench.say(B, generate(1, max_tokens=4))
        bench.turn()
        bench.transport.gone.add(A)
        bench.settle()
        assert sorted(bench.backend.aborted) == sorted(bench.backend.added[:2])
        assert len(bench.deltas(B, 1)) == 4
        assert held_by(bench.scheduler) == []

    def test_a_peer_lost_at_a_heartbeat_is_disconnected(self):
        bench = Bench(max_num_seqs=1)
        bench.welcome(A, B)
        bench.say(A, generate(1, max_tokens=90), generate(2, max_tokens=90))
        bench.say(B, generate(1, max_tokens=2))
        bench.turn()
        bench.transport.gone.add(A)
        bench.settle()
        assert bench.deltas(B, 1)[-1].finish_reason == "length"

    def test_failures_for_a_peer_that_is_gone_are_dropped(self, greeted):
        greeted.transport.gone.add(A)
        greeted.say(A, generate(1, prompt_tokens=0))
        greeted.say(B, generate(1, prompt_tokens=0))
        greeted.turn(2)
        assert [f.id for f in greeted.failures(B)] == [1]

    def test_a_disconnected_peer_has_to_say_hello_again(self, greeted):
        greeted.say(A, generate(1, max_tokens=50))
        greeted.transport.gone.add(A)
        greeted.turn()
        greeted.transport.gone.clear()
        greeted.transport.sent.clear()
        greeted.say(A, generate(2))
        greeted.turn()
        assert [type(m) for m in greeted.heard(A)] == [Refused]


class TestMalformed:
    @pytest.mark.parametrize(
        "payload",
        [
            b"",
            b"\xff" * 20,
            encode(Status(0, 0, 0.0)),
            encode(["Hello", 1, "abc"]).replace(b"abc", b"a\xffc"),
            b"\x94\xa5Hello\x01\xa1a" + b"\x91" * 100_000 + b"\x90",
            encode(["Generate", 1, b"", {"temperature": -5}, "", 1.0, 1.0]),
            encode(["Generate", 1, b"\1\0\0\0", {}, "", 0.0, 1.0]),
            encode(["Generate", 1, b"\1\0\0\0", {}, "", float("nan"), 1.0]),
        ],
        ids=["empty", "noise", "direction", "text", "deep", "bounds", "no weight", "nan weight"],
    )
    def test_a_malformed_message_is_dropped_and_the_loop_continues(self, greeted, payload):
        greeted.say(A, payload, generate(2))
        greeted.settle()
        assert greeted.deltas(A, 2)[-1].finish_reason == "length"

    @pytest.mark.parametrize(
        "request_", [["Generate", 1, b"", {"top_k": -5}], ["Embed", 1, b"\1\0\0\0", "two"]]
    )
    def test_a_malformed_request_fails_at_once(self, greeted, request_):
        greeted.say(A, encode(request_))
        greeted.turn()
        (failure,) = greeted.failures(A)
        assert (failure.id, failure.code) == (1, "internal_error")

    @settings(max_examples=50)
    @given(st.lists(st.binary(max_size=60), max_size=5))
    def test_noise_never_ends_the_loop(self, payloads):
        bench = Bench()
        bench.welcome(A)
        bench.say(A, *payloads, generate(1))
        bench.say(b"stranger", *payloads)
        bench.settle()
        assert bench.deltas(A, 1)[-1].finish_reason == "length"


class TestHeartbeat:
    def test_every_frontend_and_the_launcher_get_it(self):
        bench = Bench(max_num_seqs=1)
        bench.welcome(A, B)
        bench.say(A, generate(1, max_tokens=90), generate(2, max_tokens=90))
        bench.turn()
        bench.beats.clear()
        told: list[int] = []
        bench.scheduler.preempted = told.append
        bench.transport.sent.clear()
        bench.clock.now += HEARTBEAT_S
        bench.turn()
        assert len(bench.beats) == 1
        for peer in (A, B):
            (status,) = bench.heard(peer, Status)
            assert (status.running, status.waiting, status.kv_cache_usage) == (1, 1, 0.25)
            assert sum(status.stats.batch_size.counts) == 2
            assert status.stats.preemptions == 1
        assert told == [1]

    def test_complete_sequences_are_counted_with_their_lengths(self):
        bench = Bench(max_num_seqs=4)
        bench.welcome(A)
        bench.say(
            A, generate(1, max_tokens=3), generate(2, max_tokens=7), generate(3, max_tokens=9)
        )
        bench.turn()
        # What was not complete does not count.
        bench.say(A, Abort([3]))
        bench.settle()
        bench.transport.sent.clear()
        bench.clock.now += HEARTBEAT_S
        bench.turn()
        (status,) = bench.heard(A, Status)
        stats = status.stats
        assert (stats.finished_stop, stats.finished_length) == (0, 2)
        assert stats.generated_tokens.total == 10
        assert sum(stats.generated_tokens.counts) == sum(stats.decode_s.counts) == 2
        assert sum(stats.prompt_tokens.counts) == 2

    def test_the_heartbeat_is_on_time_while_idle_and_while_busy(self, greeted):
        greeted.beats.clear()
        began = greeted.clock.now
        while greeted.clock.now - began < 10:
            greeted.turn()
        assert len(greeted.beats) == pytest.approx(10 / HEARTBEAT_S, abs=2)
        greeted.beats.clear()
        greeted.say(A, *(generate(n, max_tokens=90) for n in range(1, 5)))
        began = greeted.clock.now
        greeted.turn()
        while greeted.backend.running:
            greeted.turn()
        assert len(greeted.beats) == pytest.approx((greeted.clock.now - began) / HEARTBEAT_S, abs=2)

    def test_an_idle_loop_sleeps_until_the_next_beat(self, greeted):
        greeted.clock.now += HEARTBEAT_S
        greeted.turn()
        greeted.transport.waits.clear()
        greeted.turn()
        (wait,) = greeted.transport.waits
        assert wait == pytest.approx(HEARTBEAT_S)

    def test_a_busy_loop_does_not_sleep(self, greeted):
        greeted.say(A, generate(1, max_tokens=20))
        greeted.turn()
        greeted.transport.waits.clear()
        greeted.turn(10)
        assert greeted.transport.waits == []

    def test_an_idle_loop_gathers_a_burst(self):
        bench = Bench(max_wait_s=0.05, max_num_seqs=100)
        bench.welcome(A)
        bench.say(A, generate(1), generate(2))
        bench.turn()
        assert bench.backend.added == []
        bench.turn(2)
        assert len(bench.backend.added) == 2

    def test_stop_ends_run_after_the_turn(self, greeted):
        greeted.backend.on_step = lambda: (greeted.loop.stop(), NotImplemented)[1]
        greeted.say(A, generate(1))
        greeted.loop.run()
        assert greeted.backend.steps == 1
        assert len(greeted.deltas(A, 1)) == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(
                st.just("generate"),
                st.sampled_from([A, B]),
                st.integers(0, 120),
                st.none() | st.integers(1, 60),
            ),
            st.tuples(st.just("abort"), st.sampled_from([A, B]), st.integers(1, 15)),
            st.tuples(st.just("turn"), st.integers(1, 5)),
            st.tuples(st.just("refuse"), st.booleans()),
        ),
        max_size=40,
    )
)
def test_every_request_has_exactly_one_end(script):
    bench = Bench(max_num_seqs=2, max_queue_size=4, kv_cache_tokens=150)
    bench.welcome(A, B)
    last: Counter[bytes] = Counter()
    aborted = set()
    for kind, *arguments in script:
        if kind == "generate":
            peer, prompt_tokens, max_tokens = arguments
            last[peer] += 1
            sampling = SamplingParams(max_tokens=max_tokens).over(DEFAULTS)
            prompt = pack_token_ids([1] * prompt_tokens)
            bench.say(peer, Generate(last[peer], prompt, sampling, queue_timeout_s=1.0))
        elif kind == "abort":
            peer, number = arguments
            bench.say(peer, Abort([number]))
            if number <= last[peer]:
                aborted.add((peer, number))
        elif kind == "turn":
            bench.turn(*arguments)
        else:

            def refuse(_request, on=arguments[0]):
                if on:
                    message = "refused"
                    raise RequestError("invalid_value", message)

            bench.backend.refuse = refuse
    bench.settle()
    for peer in (A, B):
        for number in range(1, last[peer] + 1):
            finishes = [d for d in bench.deltas(peer, number) if d.finish_reason]
            failures = [f for f in bench.failures(peer) if f.id == number]
            ends = len(finishes) + len(failures)
            assert ends <= 1
            assert ends == 1 or (peer, number) in aborted
            if finishes:
                tokens = [t for d in bench.deltas(peer, number) for t in d.token_ids]
                assert tokens == list(range(1, len(tokens) + 1))
    assert held_by(bench.scheduler) == []
    assert bench.backend.running == {}
