"""Long work: keys take turns, clients that left get nothing done, and turns are short meanwhile."""

import asyncio
import sys
import threading
import time
import weakref
from collections import defaultdict
from functools import partial
from types import SimpleNamespace

import pytest

from tests.frontend.gateway import until
from vgate.frontend.http import BodyLimits, ClientDisconnected, LongWork


class Request:
    """What the work needs of a request."""

    is_short = False

    def __init__(self, key=""):
        self.admission = SimpleNamespace(key=SimpleNamespace(name=key))
        self.leave = None

    def on_disconnect(self, callback):
        self.leave = callback

    def release(self):
        self.leave = None


class Bench:
    """Work that waits until it is let go, and the order in which it began."""

    def __init__(self):
        self.work = LongWork(asyncio.get_running_loop(), BodyLimits(1000, 1000))
        self.began = []
        # Lets all work end, or that of one name.
        self.go = threading.Event()
        self.ends = defaultdict(threading.Event)

    def add(self, name, request=None):
        request = request or Request(name[0])
        return request, asyncio.ensure_future(self.work.run(request, lambda: self._do(name)))

    def _do(self, name):
        self.began.append(name)
        deadline = time.monotonic() + 20
        while not (self.go.is_set() or self.ends[name].wait(0.01)):
            assert time.monotonic() < deadline
        return name

    async def until_began(self, count):
        await until(lambda: len(self.began) >= count, f"{count} began")


def run(scenario):
    async def main():
        bench = Bench()
        try:
            await asyncio.wait_for(scenario(bench), 30)
        finally:
            bench.go.set()
            bench.work.close()

    asyncio.run(main())


def test_keys_take_turns():
    async def scenario(bench):
        names = ["a1", "a2", "a3", "a4", "b1", "b2", "c1"]
        tasks = [bench.add(name)[1] for name in names]
        # A key never has all threads.
        await bench.until_began(2)
        assert sorted(bench.began) == ["a1", "b1"]
        # One ends after the other, as two threads begin in either order.
        for ends, begins in (("a1", "a2"), ("b1", "b2"), ("a2", "c1"), ("b2", "a3")):
            bench.ends[ends].set()
            await bench.until_began(len(bench.began) + 1)
            assert bench.began[-1] == begins
        bench.go.set()
        assert await asyncio.gather(*tasks) == names

    run(scenario)


def test_without_keys_all_threads_are_used():
    async def scenario(bench):
        tasks = [bench.add(str(number), Request())[1] for number in range(3)]
        await bench.until_began(2)
        assert sorted(bench.began) == ["0", "1"]
        bench.go.set()
        assert await asyncio.gather(*tasks) == ["0", "1", "2"]

    run(scenario)


def test_work_of_a_client_that_left_is_dropped():
    async def scenario(bench):
        running, first = bench.add("a1")
        waiting, second = bench.add("a2")
        _, third = bench.add("a3")
        await bench.until_began(1)
        waiting.leave()
        running.leave()
        for task in (first, second):
            with pytest.raises(ClientDisconnected):
                await task
        bench.go.set()
        assert await third == "a3"
        assert bench.began == ["a1", "a3"]

    run(scenario)


def test_waiting_work_is_freed_when_its_client_leaves():
    class Body:
        """A large body."""

    async def scenario(bench):
        others = [bench.add(name)[1] for name in ("a1", "a2")]
        body = Body()
        request, freed = Request("a"), weakref.ref(body)
        task = asyncio.ensure_future(bench.work.run(request, partial(id, body)))
        await bench.until_began(1)
        request.leave()
        await asyncio.wait([task])
        assert isinstance(task.exception(), ClientDisconnected)
        del body, task
        # What is before it may take long.
        assert freed() is None
        bench.go.set()
        await asyncio.gather(*others)

    run(scenario)


def test_a_cancelled_request_is_dropped():
    async def scenario(bench):
        _, first = bench.add("a1")
        _, second = bench.add("a2")
        await bench.until_began(1)
        second.cancel()
        first.cancel()
        await asyncio.wait([first, second])
        bench.go.set()
        assert await bench.add("a3")[1] == "a3"
        assert bench.began == ["a1", "a3"]

    run(scenario)


def test_errors_are_raised():
    async def scenario(bench):
        def fail():
            raise ValueError("x")

        with pytest.raises(ValueError, match="x"):
            await bench.work.run(Request("a"), fail)

    run(scenario)


def test_work_that_fails_is_not_spelt_out():
    class Work:
        """Its text would have all of a body."""

        def __call__(self):
            raise ValueError

        def __repr__(self):
            raise AssertionError

    async def scenario(bench):
        _, other = bench.add("a1")
        await bench.until_began(1)
        failing = asyncio.ensure_future(bench.work.run(Request("a"), Work()))
        _, last = bench.add("a2")
        bench.go.set()
        with pytest.raises(ValueError, match=r"^$"):
            await failing
        await asyncio.gather(other, last)

    run(scenario)


def test_turns_are_short_only_while_there_is_work():
    async def scenario(bench):
        usual = sys.getswitchinterval()
        _, task = bench.add("a1")
        await bench.until_began(1)
        assert sys.getswitchinterval() < usual
        bench.go.set()
        await task
        assert sys.getswitchinterval() == usual

    run(scenario)


def test_short_requests_stay_in_the_loop():
    async def scenario(bench):
        request = Request("a")
        request.is_short = True
        assert await bench.work.done(request, threading.get_ident) == threading.get_ident()
        request.is_short = False
        assert await bench.work.done(request, threading.get_ident) != threading.get_ident()

    run(scenario)
