import asyncio
from functools import partial

from vgate.frontend.http.long_work import Turns


class Burst:
    """Tasks that all take their turn at once; `begun` says when each did, in iterations."""

    def __init__(self, count: int) -> None:
        self._turns = Turns(asyncio.get_running_loop())
        self.begun: list[tuple[int, int]] = []
        self.iteration = 0
        self.tasks = [asyncio.create_task(self._take(number)) for number in range(count)]

    async def _take(self, number: int) -> None:
        await self._turns.begin("")
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
        await asyncio.wait_for(burst._turns.begin(""), 1)
        assert burst.iteration == 0

    asyncio.run(scenario())


def test_the_next_requests_of_a_burst_begin_while_others_of_its_answers_end():
    async def scenario():
        turns, passed = Turns(asyncio.get_running_loop()), []

        async def client(number):
            await turns.end()
            passed.append(("end", number))
            await turns.begin("")
            passed.append(("begin", number))

        async with asyncio.TaskGroup() as tasks:
            for number in range(40):
                tasks.create_task(client(number))
        begun = [place for place, (kind, _) in enumerate(passed) if kind == "begin"]
        ended = [place for place, (kind, _) in enumerate(passed) if kind == "end"]
        # All along, and not after the last end.
        assert begun[20] < ended[30]
        for kind in ("begin", "end"):
            assert [number for one, number in passed if one == kind] == list(range(40))

    asyncio.run(scenario())


def test_answers_end_however_many_requests_begin():
    async def scenario():
        turns, passed = Turns(asyncio.get_running_loop()), []

        async def passing(turn, name):
            await turn()
            passed.append(name)

        async with asyncio.TaskGroup() as tasks:
            for _ in range(60):
                tasks.create_task(passing(partial(turns.begin, ""), "begin"))
            for _ in range(5):
                tasks.create_task(passing(turns.end, "end"))
        assert passed.index("begin") < passed.index("end")
        assert "begin" in passed[len(passed) - passed[::-1].index("end") :]

    asyncio.run(scenario())


def test_what_nobody_waits_for_is_done_at_once_or_after_those_who_wait():
    async def scenario():
        loop = asyncio.get_running_loop()
        turns, done = Turns(loop), []
        turns.later(lambda: done.append("alone"))
        assert done == ["alone"]
        tasks = [turns.begin("") for _ in range(30)]
        await asyncio.sleep(0)
        for number in range(90):
            turns.later(lambda number=number: done.append(number))
        assert done == ["alone"]
        await asyncio.gather(*tasks)
        # Only since the last of the others passed.
        assert len(done) < 45
        # Then more of it at once than of what takes its turn.
        for _ in range(12):
            await asyncio.sleep(0)
        assert done == ["alone", *range(90)]

    asyncio.run(scenario())


def test_an_error_in_what_was_put_off_ends_no_turns():
    async def scenario():
        loop = asyncio.get_running_loop()
        errors, done = [], []
        loop.set_exception_handler(lambda _loop, context: errors.append(context["exception"]))
        turns = Turns(loop)
        tasks = [turns.begin("") for _ in range(30)]
        await asyncio.sleep(0)
        turns.later(lambda: 1 / 0)
        turns.later(lambda: done.append(True))
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
        for _ in range(10):
            await asyncio.sleep(0)
        assert done == [True]
        assert [type(error) for error in errors] == [ZeroDivisionError]

    asyncio.run(scenario())


def test_what_is_put_off_is_bounded_and_done_at_the_end():
    async def scenario():
        turns, done = Turns(asyncio.get_running_loop()), []
        for number in range(1000):
            turns.later(lambda number=number: done.append(number))
        await asyncio.sleep(0)
        assert 600 < len(done) < 1000
        turns.finish()
        assert done == list(range(1000))

    asyncio.run(scenario())


def test_an_error_at_the_end_keeps_nothing_else_from_being_done():
    async def scenario():
        loop = asyncio.get_running_loop()
        errors, done = [], []
        loop.set_exception_handler(lambda _loop, context: errors.append(context["exception"]))
        turns = Turns(loop)
        for number in (1, 1, 1, 1, 0, 2):
            turns.later(lambda number=number: done.append(1 / number))
        turns.finish()
        assert done == [1, 1, 1, 1, 0.5]
        assert [type(error) for error in errors] == [ZeroDivisionError]

    asyncio.run(scenario())


def test_a_key_does_not_wait_for_the_burst_of_another_one():
    async def scenario():
        turns, passed = Turns(asyncio.get_running_loop()), []

        async def client(key, number):
            await turns.begin(key)
            passed.append((key, number))

        sent = [("many", n) for n in range(300)] + [("few", n) for n in range(5)] + [("one", 0)]
        async with asyncio.TaskGroup() as tasks:
            for key, number in sent:
                tasks.create_task(client(key, number))
        place = passed.index
        assert place(("one", 0)) < 12
        assert place(("few", 4)) < 24
        # Each key's own keep their order, and none is lost.
        for one in ("many", "few", "one"):
            assert [each for each in passed if each[0] == one] == [e for e in sent if e[0] == one]

    asyncio.run(scenario())
