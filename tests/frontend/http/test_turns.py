import asyncio

from vgate.frontend.http.long_work import Turns


class Burst:
    """Tasks that all take their turn at once; `begun` says when each did, in iterations."""

    def __init__(self, count: int) -> None:
        self._turns = Turns(asyncio.get_running_loop())
        self.begun: list[tuple[int, int]] = []
        self.iteration = 0
        self.tasks = [asyncio.create_task(self._take(number)) for number in range(count)]

    async def _take(self, number: int) -> None:
        await self._turns.take()
        self.begun.append((self.iteration, number))

    async def end(self) -> None:
        # As long as the loop polls between two iterations, a stream's reader runs between them.
        while not all(task.done() for task in self.tasks):
            await asyncio.sleep(0)
            self.iteration += 1


def test_few_begin_at_once():
    async def scenario():
        burst = Burst(3)
        await burst.end()
        assert {iteration for iteration, _ in burst.begun} == {0}

    asyncio.run(scenario())


def test_a_burst_begins_in_its_order_and_a_few_in_each_iteration():
    async def scenario():
        burst = Burst(50)
        await burst.end()
        assert [number for _, number in burst.begun] == list(range(50))
        iterations = [iteration for iteration, _ in burst.begun]
        assert max(map(iterations.count, iterations)) <= 8
        # None is lost, and none waits longer than those before it need.
        assert len(set(iterations)) > 10
        assert burst.iteration < 60

    asyncio.run(scenario())


def test_a_cancelled_task_takes_no_turn():
    async def scenario():
        burst = Burst(30)
        await asyncio.sleep(0)
        for task in burst.tasks[10:20]:
            task.cancel()
        await burst.end()
        assert [number for _, number in burst.begun] == [*range(10), *range(20, 30)]

    asyncio.run(scenario())


def test_turns_are_at_once_again_after_a_burst():
    async def scenario():
        burst = Burst(20)
        await burst.end()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        burst.begun, burst.iteration = [], 0
        await asyncio.wait_for(burst._turns.take(), 1)
        assert burst.iteration == 0

    asyncio.run(scenario())
