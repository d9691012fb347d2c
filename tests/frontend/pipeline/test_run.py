"""However an answer ends, no engine has a sequence of it any more when it is closed."""

import asyncio

import msgspec
import pytest

from tests.frontend.engines.memory_handle import MemoryHandle
from vgate.errors import EngineUnavailableError, ShuttingDownError
from vgate.frontend.engines.pool import EnginePool
from vgate.frontend.engines.resumption import Survivors
from vgate.frontend.engines.sequence import BaseAnswer
from vgate.frontend.http import ClientDisconnected
from vgate.frontend.http.long_work import Turns
from vgate.frontend.pipeline.waiting.run import run
from vgate.wire.codec import pack_token_ids
from vgate.wire.messages import Generate, ModelInfo
from vgate.wire.parameters import DEFAULTS

MODEL = ModelInfo(["m"], [], 100, 4, 1000, 1, "fake")
PROMPT = pack_token_ids([104, 105])


class Client:
    """What `run` needs of a request."""

    def on_disconnect(self, callback):
        self.leave = callback

    def release(self):
        self.leave = None


class Answer(BaseAnswer):
    """Closed as answers are, after a look at what still runs."""

    def __init__(self, loop, count, pool):
        super().__init__(loop, count)
        self.pool = pool
        self.left = None

    def flush(self):
        for sequence in self.sequences:
            if sequence.error:
                self.fail(sequence.error)

    def close(self):
        self.left = self.pool.in_flight
        super().close()


def complete(play):
    play.answer.done.set_result(None)


def fail(play):
    play.answer.fail(RuntimeError())


def fail_all(play):
    play.pool.fail_all(ShuttingDownError())


def leave(play):
    play.client.leave()


def cancel(play):
    play.task.cancel()


def lose(play):
    for engine in play.engines:
        engine.stop()
    play.answer.fail(RuntimeError())


def lose_one(play):
    play.engines[0].stop()
    play.answer.done.set_result(None)


class Play:
    def __init__(self):
        loop = asyncio.get_running_loop()
        self.pool = EnginePool(
            loop,
            on_model=lambda _: None,
            on_lost=lambda: None,
            survivors=Survivors(enabled=True),
        )
        self.engines = [MemoryHandle(loop, self.pool) for _ in range(2)]
        for engine in self.engines:
            self.pool.add(engine)
            engine.start(MODEL)
        self.client = Client()
        self.answer = Answer(loop, 4, self.pool)

    def start(self, count=4):
        for sequence in self.answer.sequences[:count]:
            sampling = msgspec.structs.replace(DEFAULTS, ignore_eos=True)
            message = Generate(self.pool.next_id(), PROMPT, sampling)
            self.pool.submit(sequence, message, 60)

    def start_half(self):
        self.start(2)
        raise EngineUnavailableError("none", retry_after_s=1.0)


@pytest.mark.parametrize("end", [complete, fail, fail_all, leave, cancel, lose, lose_one, None])
def test_no_engine_has_a_sequence_of_a_closed_answer(end):
    async def scenario():
        play = Play()
        start = play.start if end else play.start_half
        play.task = asyncio.ensure_future(run(play.client, play.pool, play.answer, start))
        await asyncio.sleep(0)
        if end is not None:
            assert play.pool.in_flight == 4
            end(play)
        (outcome,) = await asyncio.gather(play.task, return_exceptions=True)
        expected = {complete: type(None), lose_one: type(None), leave: ClientDisconnected}
        assert isinstance(outcome, expected.get(end, BaseException))
        assert (play.answer.left, play.pool.in_flight, play.client.leave) == (0, 0, None)
        play.pool.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("end", [None, leave, cancel])
def test_an_answer_that_has_ended_is_closed_in_its_turn_however_its_client_leaves(end):
    async def scenario():
        play, turns = Play(), Turns(asyncio.get_running_loop())
        play.task = asyncio.ensure_future(
            run(play.client, play.pool, play.answer, play.start, turns.end)
        )
        await asyncio.sleep(0)
        # Others take all turns of some iterations.
        others = [asyncio.ensure_future(turns.end()) for _ in range(20)]
        await asyncio.sleep(0)
        complete(play)
        await asyncio.sleep(0)
        assert play.answer.left is None
        if end is not None:
            end(play)
        (outcome,) = await asyncio.gather(play.task, return_exceptions=True)
        # All of it was sent, so its client left too late to count.
        assert isinstance(outcome, asyncio.CancelledError if end is cancel else type(None))
        assert (play.answer.left, play.pool.in_flight, play.client.leave) == (0, 0, None)
        await asyncio.gather(*others)
        play.pool.close()

    asyncio.run(scenario())
