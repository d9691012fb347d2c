"""How often streams that wait for a model are told of it."""

import asyncio
from types import SimpleNamespace

from vgate.frontend.engines.residency import Residence, WaitingRoom
from vgate.frontend.engines.sequence import BaseAnswer
from vgate.frontend.pipeline.waiting.streams import Notices
from vgate.wire.control import EngineState


class Loop:
    """Counts timers; `tick` runs those that are due."""

    def __init__(self) -> None:
        self.timers = []

    def call_later(self, _delay_s, callback):
        self.timers.append(callback)
        return callback

    def tick(self) -> None:
        due, self.timers = self.timers, []
        for callback in due:
            callback()


def test_one_timer_is_enough_and_nothing_is_said_twice():
    async def main():
        loop, said = Loop(), []
        residence = Residence(WaitingRoom(9), lambda: 0.0)
        model = SimpleNamespace(
            name="m", residence=residence, state=EngineState("starting", "loading\nweights", 0.0)
        )
        notices = Notices(loop, 100)
        for _ in range(3):
            answer = BaseAnswer(asyncio.get_running_loop(), 0)
            residence.enter(answer, 1)
            notices.add(answer, model, "m", said.append)
            if len(residence) < 3:
                notices.discard(answer)
        assert len(loop.timers) == 1
        for _ in range(3):
            loop.tick()
            assert len(loop.timers) == 1
        assert said == [b": the model m is loading, loading weights; 2 requests before this one\n"]
        model.state = EngineState("ready", "it serves", 0.0)
        loop.tick()
        assert len(said) == 2
        residence.leave(answer, 1)
        loop.tick()
        loop.tick()
        assert (loop.timers, len(said)) == ([], 2)

    asyncio.run(main())
