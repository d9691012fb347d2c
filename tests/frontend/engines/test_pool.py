"""Several engines for one model, in memory."""

import asyncio
from typing import Any

import msgspec
import pytest

from tests.frontend.engines.memory_handle import MemoryHandle
from tests.frontend.gateway import until
from vgate.config.schema import Routing
from vgate.engine.backends.dry_run.vocabulary import ASSISTANT, END, USER
from vgate.errors import (
    DeadlineExceededError,
    EngineUnavailableError,
    ShuttingDownError,
    StreamNotFoundError,
)
from vgate.frontend.engines.pool import EnginePool
from vgate.frontend.engines.resumption import Survivors
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.routing import Router
from vgate.wire.codec import pack_token_ids
from vgate.wire.kept import Keep
from vgate.wire.messages import Generate, ModelInfo, Status
from vgate.wire.parameters import DEFAULTS
from vgate.wire.stats import EngineStats, Histogram

MODEL = ModelInfo(["m"], [], 100, 4, 1000, 1, "fake")
OTHER = msgspec.structs.replace(MODEL, fingerprint="other")
PROMPT = pack_token_ids([USER, *b"hi", END, ASSISTANT])
ENDLESS = msgspec.structs.replace(DEFAULTS, ignore_eos=True)


class Answer:
    """As the pipeline's: it ends with its first error, and then aborts its other sequences."""

    def __init__(self, pool: EnginePool) -> None:
        self.touched = False
        self._pool = pool
        self.sequences: list[Sequence] = []
        self.error: Exception | None = None
        self.flushes = 0

    def flush(self) -> None:
        self.flushes += 1
        error = next((s.error for s in self.sequences if s.error), None)
        if error is not None and self.error is None:
            self.error = error
            self._pool.abort(self.sequences)

    def restart(self, sequence: Sequence) -> bool:
        if sequence.generated:
            return False
        sequence.clear()
        return True


class Play:
    def __init__(self, engines: int, policy="round_robin", **options: Any) -> None:
        loop = asyncio.get_running_loop()
        self.models: list[ModelInfo] = []
        self.losses = 0
        self.pool = EnginePool(
            loop,
            on_model=self.models.append,
            on_lost=self.lost,
            survivors=Survivors(**{"enabled": True, "most_held": 3, **options}),
        )
        self.pool.route(Router(Routing(policy=policy), loop.time, seed=1))
        self.engines = [MemoryHandle(loop, self.pool) for _ in range(engines)]
        for engine in self.engines:
            self.pool.add(engine)

    def lost(self) -> None:
        self.losses += 1

    def submit(self, count=1, sampling=ENDLESS, timeout_s=60.0) -> Answer:
        answer = Answer(self.pool)
        for index in range(count):
            sequence = Sequence(answer, index)
            answer.sequences.append(sequence)
            message = Generate(self.pool.next_id(), PROMPT, sampling)
            self.pool.submit(sequence, message, timeout_s)
        return answer

    @property
    def load(self) -> list[int]:
        return [engine.in_flight for engine in self.engines]


@pytest.fixture
def play():
    def run(scenario, *, engines=2, start=True, **options):
        async def main():
            async with asyncio.timeout(60):
                play = Play(engines, **options)
                for engine in play.engines if start else []:
                    engine.start(MODEL)
                try:
                    await scenario(play)
                finally:
                    play.pool.close()
                    assert all(engine.closed for engine in play.engines)

        asyncio.run(main())

    return run


def test_it_is_connected_with_its_first_engine(play):
    async def scenario(play):
        with pytest.raises(EngineUnavailableError):
            play.submit()
        play.engines[1].start(MODEL)
        assert play.pool.connected
        play.submit()
        assert play.load == [0, 1]
        play.engines[0].start(MODEL)
        play.submit()
        assert play.load == [1, 1]

    play(scenario, start=False, policy="least_loaded")


def test_sequences_go_where_fewest_are_under_ids_of_their_own(play):
    async def scenario(play):
        first = play.submit(3)
        assert play.load == [2, 1]
        play.pool.abort(first.sequences)
        assert (play.load, play.pool.in_flight) == ([0, 0], 0)
        play.submit(4)
        ids = [message.id for engine in play.engines for message in engine.submitted]
        assert len(set(ids)) == len(ids) == 7

    play(scenario)


def test_sequences_continue_in_a_sibling_at_once(play):
    async def scenario(play):
        fresh, begun = play.submit(), play.submit()
        unrelated = play.submit(sampling=ENDLESS)
        assert play.load == [2, 1]
        (sequence,) = fresh.sequences
        sequence.generated = [ord("h")]
        play.engines[0].stop()
        assert play.load == [0, 3]
        assert (play.losses, play.pool.in_flight) == (1, 3)
        (message,) = [m for m in play.engines[1].submitted if m.generated]
        assert (message.id, message.resumed) == (sequence.id, True)
        assert message.generated == pack_token_ids([ord("h")])
        assert {a.error for a in (fresh, begun, unrelated)} == {None}

    play(scenario)


def test_a_sequence_that_continues_keeps_its_deadline(play):
    async def scenario(play):
        answer = play.submit(timeout_s=0.05)
        play.engines[0].stop()
        assert play.load == [0, 1]
        await until(lambda: answer.error, "the deadline")
        assert type(answer.error) is DeadlineExceededError

    play(scenario)


def test_what_cannot_continue_ends_and_takes_the_rest_of_its_answer_with_it(play):
    async def scenario(play):
        penalised = msgspec.structs.replace(ENDLESS, presence_penalty=1.0)
        answer = play.submit(4, sampling=penalised)
        assert play.load == [2, 2]
        # The client has seen a token of the first sequence only, which ran in the first engine.
        answer.sequences[0].generated = [1]
        play.engines[0].stop()
        assert type(answer.error) is EngineUnavailableError
        assert (play.load, play.pool.in_flight) == ([0, 0], 0)

    play(scenario)


def test_without_a_sibling_they_wait_for_any_engine(play):
    async def scenario(play):
        answer = play.submit(2)
        play.engines[0].stop()
        assert play.load == [0, 2]
        play.engines[1].stop()
        # One sequence has now lost two engines.
        assert play.pool.in_flight == 0
        assert type(answer.error) is EngineUnavailableError

        play.engines[0].start(MODEL)
        (waiting,) = play.submit().sequences
        play.engines[0].stop()
        assert (play.pool.in_flight, waiting.error) == (1, None)
        assert not play.pool.connected
        play.engines[1].start(MODEL)
        assert play.load == [0, 1]

    play(scenario)


def test_a_sequence_that_waits_keeps_its_deadline(play):
    async def scenario(play):
        answer = play.submit(timeout_s=0.05)
        play.engines[0].stop()
        await until(lambda: answer.error, "the deadline")
        assert type(answer.error) is DeadlineExceededError
        assert play.pool.in_flight == 0

    play(scenario, engines=1)


def test_a_new_sequence_waits_for_an_engine_that_comes_back(play):
    async def scenario(play):
        (begun,) = play.submit().sequences
        play.engines[0].stop()
        assert (play.pool.connected, play.pool.takes()) == (False, True)
        answer = play.submit(2)
        (held, gone) = answer.sequences
        assert play.pool.in_flight == 3
        play.pool.abort([gone])
        play.engines[0].start(MODEL)
        assert [m.id for m in play.engines[0].submitted[1:]] == [begun.id, held.id]
        assert all(m.resumed for m in play.engines[0].submitted[1:])
        assert (held.deaths, answer.error, play.load) == (0, None, [2])
        # It outlives this engine as any other sequence does.
        play.engines[0].stop()
        assert (held.deaths, answer.error) == (1, None)

    play(scenario, engines=1, hold_s=60)


def test_only_so_many_new_sequences_wait(play):
    async def scenario(play):
        play.engines[0].stop()
        waiting = play.submit(3)
        assert not play.pool.takes()
        with pytest.raises(EngineUnavailableError, match="not connected"):
            play.submit()
        assert play.pool.in_flight == 3
        play.pool.abort(waiting.sequences)
        assert play.pool.takes()

    play(scenario, engines=1, hold_s=60)


def test_a_new_sequence_waits_only_so_long(play):
    async def scenario(play):
        play.engines[0].stop()
        answer = play.submit(2)
        late = play.submit(timeout_s=0.01)
        await until(lambda: answer.error and late.error, "the ends")
        assert type(answer.error) is EngineUnavailableError
        assert type(late.error) in {EngineUnavailableError, DeadlineExceededError}
        assert (answer.flushes, play.pool.in_flight) == (1, 0)
        play.engines[0].start(MODEL)
        assert play.engines[0].submitted == []

    play(scenario, engines=1, hold_s=0.02)


def test_nothing_waits_for_an_engine_that_never_was_or_refuses(play):
    async def scenario(play):
        assert not play.pool.takes()
        with pytest.raises(EngineUnavailableError):
            play.submit()
        play.engines[0].start(MODEL)
        play.engines[0].stop()
        held = play.submit()
        play.engines[0].stop("another version", refused=True)
        assert "another version" in held.error.message
        assert not play.pool.takes()

    play(scenario, engines=1, start=False, hold_s=60)


def test_what_waits_goes_on_where_only_the_context_is_another(play):
    async def scenario(play):
        play.engines[0].stop()
        held = play.submit()
        play.engines[0].start(msgspec.structs.replace(MODEL, max_model_len=7))
        assert held.error is None
        assert not play.pool._survivors.waiting

    play(scenario, engines=1, hold_s=60)


def test_what_waits_for_another_model_is_told(play):
    async def scenario(play):
        play.engines[0].stop()
        held = play.submit()
        play.engines[0].start(OTHER)
        assert "serves another model" in held.error.message

    play(scenario, engines=1, hold_s=60)


def test_a_new_sequence_waits_while_the_only_engine_drains(play):
    async def scenario(play):
        play.engines[0].status = Status(0, 0, 0.0, None, True)
        held = play.submit()
        assert (play.load, play.pool.in_flight) == ([0], 1)
        play.engines[0].stop()
        play.engines[0].status = Status(0, 0, 0.0)
        play.engines[0].start(MODEL)
        assert (play.load, held.error) == ([1], None)

    play(scenario, engines=1, hold_s=60)


def test_what_waits_for_a_drained_engine_starts_when_that_is_resumed(play):
    async def scenario(play):
        play.engines[0].status = Status(0, 0, 0.0, None, True)
        assert not play.pool.accepts
        held = play.submit()
        play.engines[0].status = Status(0, 0, 0.0)
        play.pool.on_resumed(play.engines[0])
        assert play.pool.accepts
        assert (play.load, held.error) == ([1], None)

    play(scenario, engines=1, hold_s=60)


def test_what_the_next_engine_had_not_begun_survives_it(play):
    async def scenario(play):
        play.engines[0].queues = True
        answer = play.submit()
        for _ in range(4):
            play.engines[0].stop()
            play.engines[0].start(MODEL)
        assert (answer.sequences[0].deaths, answer.error) == (1, None)
        play.engines[0].running[answer.sequences[0].id].started = True
        play.engines[0].stop()
        assert type(answer.error) is EngineUnavailableError

    play(scenario, engines=1)


def test_an_engine_that_drains_gets_no_more(play):
    async def scenario(play):
        draining = Status(0, 0, 0.0, None, True)
        play.engines[0].status = draining
        begun = play.submit(2)
        assert play.load == [0, 2]
        play.engines[1].status = draining
        with pytest.raises(EngineUnavailableError, match="takes nothing new"):
            play.submit()
        # Its end is a loss like any other, and nothing goes to one that drains as well.
        play.engines[1].stop()
        assert (play.load, play.pool.in_flight, begun.error) == ([0, 0], 2, None)
        play.engines[1].status = Status(0, 0, 0.0)
        play.engines[1].start(MODEL)
        assert play.load == [0, 2]

    play(scenario)


def test_what_reached_a_drained_engine_too_late_goes_elsewhere_though_nothing_resumes(play):
    async def scenario(play):
        late = play.submit()
        assert play.load == [1, 0]
        # It ends having finished what it had read. What was on its way then is a new request.
        play.engines[0].status = Status(0, 0, 0.0, None, True)
        play.engines[0].stop()
        assert (play.load, late.error) == ([0, 1], None)
        play.engines[1].stop()
        assert isinstance(late.error, EngineUnavailableError)

    play(scenario, enabled=False)


def test_an_engine_that_is_removed_finishes_what_runs_there(play):
    async def scenario(play):
        first = play.engines[0]
        begun = play.submit(2)
        assert play.load == [1, 1]
        play.pool.remove(first)
        play.submit(2)
        assert play.load == [1, 3]
        assert not first.closed
        first.running.clear()
        await until(lambda: first.closed, "it is disconnected from")
        play.pool.abort(begun.sequences)
        play.pool.remove(play.engines[1])
        with pytest.raises(EngineUnavailableError):
            play.submit()

    play(scenario)


def test_what_a_removed_engine_loses_continues_elsewhere(play):
    async def scenario(play):
        play.submit(2)
        play.pool.remove(play.engines[0])
        play.engines[0].stop()
        assert play.load == [0, 2]
        await until(lambda: play.engines[0].closed, "it is disconnected from")

    play(scenario)


JOINS = Keep([b"s"], 0, 30.0, joins=True)


# A client that is told to try again would only hear then that its stream is gone.
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize(
    ("how", "error", "code"),
    [
        ({}, StreamNotFoundError, "stream_not_found"),
        ({"cut": True}, EngineUnavailableError, "engine_unavailable"),
        ({"refused": True}, EngineUnavailableError, "engine_unavailable"),
    ],
)
def test_a_take_up_whose_engine_is_lost_hears_whether_to_try_again(
    play, when, waits, how, error, code
):
    async def scenario(play):
        (engine,) = play.engines
        answer = Answer(play.pool)
        sequence = Sequence(answer, 0)
        answer.sequences.append(sequence)
        message = Generate(play.pool.next_id(), PROMPT, ENDLESS, keep=JOINS)
        if when == "before":
            engine.stop(**how)
            with pytest.raises(error) as raised:
                play.pool.join(engine, sequence, message, 60.0)
            assert raised.value.code == code
            return
        play.pool.join(engine, sequence, message, 60.0)
        engine.stop(**how)
        if waits and how.get("cut"):  # for the link
            assert (play.pool.in_flight, answer.error) == (1, None)
            return
        assert play.pool.in_flight == 0
        assert isinstance(answer.error, error)
        assert answer.flushes == 1

    play(scenario, engines=1, enabled=waits)


def test_engines_with_contexts_of_their_own_are_all_used_and_the_shortest_counts(play):
    async def scenario(play):
        shorter = msgspec.structs.replace(MODEL, max_model_len=MODEL.max_model_len // 2)
        play.engines[0].start(MODEL)
        play.engines[1].start(shorter)
        assert play.models == [MODEL, shorter]
        play.submit(2)
        assert play.load == [1, 1]
        # One that was reduced goes on with what its predecessor had.
        play.engines[0].stop()
        assert play.load[1] == 2

    play(scenario, start=False)


def test_an_engine_with_another_model_is_not_used_beside_its_siblings(play):
    async def scenario(play):
        play.engines[0].start(MODEL)
        play.engines[1].start(OTHER)
        play.submit(2)
        assert (play.load, play.models) == ([2, 0], [MODEL])
        # It serves when the others are gone, and gets none of their sequences.
        (waiting,) = play.submit().sequences
        play.engines[0].stop()
        assert (play.load, play.models) == ([0, 0], [MODEL, OTHER])
        assert "another model" in waiting.error.message
        play.submit()
        assert play.load == [0, 1]
        # Now the first one is the odd one out.
        play.engines[0].start(MODEL)
        play.submit()
        assert play.load == [0, 2]

    play(scenario, start=False)


@pytest.mark.parametrize("removed", [False, True])
def test_an_engine_with_another_model_takes_over_from_those_that_take_nothing_more(play, removed):
    async def scenario(play):
        old, new = play.engines
        old.start(MODEL)
        new.start(OTHER)
        begun = play.submit(2)
        if removed:
            play.pool.remove(old)
        else:
            old.status = Status(2, 0, 0.0, None, True)
        await until(lambda: play.pool.accepts, "the new engine serves")
        play.submit()
        assert (play.load, play.models, begun.error) == ([2, 1], [MODEL, OTHER], None)
        # What is lost with the old one can't go on in another model.
        old.stop()
        assert play.load == [0, 1]
        assert "try again" in str(begun.error)

    play(scenario, start=False)


def test_an_engine_with_another_model_serves_once_the_last_other_one_is_removed(play):
    async def scenario(play):
        play.engines[0].start(MODEL)
        play.engines[1].start(OTHER)
        play.pool.remove(play.engines[0])
        await until(lambda: play.pool.accepts, "the new engine serves")
        assert play.models == [MODEL, OTHER]

    play(scenario, start=False)


def test_a_refusal_ends_what_ran_there_only(play):
    async def scenario(play):
        refused, kept = play.submit(), play.submit()
        play.engines[0].stop("another version", refused=True)
        assert "another version" in refused.error.message
        assert kept.error is None
        assert play.pool.refusal is None
        play.engines[1].stop()
        assert play.pool.refusal == "another version"
        assert kept.error is None
        play.engines[1].stop("another version", refused=True)
        assert "another version" in kept.error.message

    play(scenario)


def test_all_ends_reach_all_engines(play):
    async def scenario(play):
        answer, error = play.submit(3), ShuttingDownError("over")
        play.pool.fail_all(error)
        assert answer.error is error
        assert (play.load, play.pool.in_flight) == ([0, 0], 0)
        waiting = play.submit()
        play.engines[0].stop()
        play.engines[1].stop()
        play.pool.fail_waiting(error)
        assert waiting.error is not None
        play.engines[0].start(MODEL)
        last = play.submit()
        play.engines[0].stop()
        # None waits any more.
        assert last.error is not None

    play(scenario)


def test_a_read_of_a_file_ends_with_its_pool(play):
    async def scenario(play):
        reading = asyncio.ensure_future(play.pool.read_file(b"d", 0))
        play.pool.close()
        with pytest.raises(EngineUnavailableError):
            await asyncio.wait_for(reading, 5)

    play(scenario, engines=1)


def test_what_an_engine_loses_while_nothing_may_wait_continues_in_another(play):
    async def scenario(play):
        answer = play.submit(2)
        play.pool.fail_waiting(ShuttingDownError("over"))
        play.engines[0].stop()
        assert (play.load, answer.error) == ([0, 2], None)
        play.engines[1].stop()
        assert (play.pool.in_flight, type(answer.error)) == (0, EngineUnavailableError)

    play(scenario)


def test_its_status_is_that_of_one_engine_as_large_as_all():
    def stats(count: int) -> EngineStats:
        histogram = Histogram([count, 2 * count], 0.5 * count)
        return EngineStats(*[histogram] * 5, count, 10, 5)

    async def scenario(play):
        play.engines[0].status = Status(1, 2, 0.5, stats(1))
        assert play.pool.status.stats == stats(1)
        play.engines[1].status = Status(3, 4, 0.25, stats(2))
        total = Histogram([3, 6], 1.5)
        assert play.pool.status == Status(4, 6, 0.375, EngineStats(*[total] * 5, 3, 20, 10))
        play.engines[0].stop()
        assert play.pool.status.running == 3

    async def main():
        play = Play(2)
        play.engines[0].start(MODEL)
        play.engines[1].start(MODEL)
        play.engines[1].stop()
        one = play.pool.status
        assert one is play.engines[0].status
        play.engines[0].status = Status(1, 2, 0.5, stats(1))
        assert play.pool.status.stats == stats(1)
        play.engines[1].start(MODEL)
        await scenario(play)
        play.pool.close()

    asyncio.run(main())
