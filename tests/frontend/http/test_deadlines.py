"""Who waits for a client for too long is cancelled there, and nowhere else."""

import asyncio

import pytest

from vgate.frontend.http import waits
from vgate.frontend.http.waits import Deadlines


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(waits, "_SWEEP_S", 0.005)


async def wait(limits: Deadlines, awaited, timeout_s: float) -> str:
    """Wait as a request does for its body."""
    task = asyncio.current_task()
    limits.begin(task, timeout_s)
    try:
        await awaited
    except asyncio.CancelledError:
        if limits.end(task):
            return "late"
        raise
    finally:
        limits.end(task)
    return "there"


def test_one_that_waits_too_long_is_told_so_and_goes_on():
    async def scenario():
        limits = Deadlines(asyncio.get_running_loop())
        never = asyncio.get_running_loop().create_future()
        assert await wait(limits, never, 0.01) == "late"
        # Nothing of the cancelling is left, or this would be cancelled as well.
        await asyncio.sleep(0.02)
        assert asyncio.current_task().cancelling() == 0
        assert await wait(limits, asyncio.sleep(0), 60) == "there"

    asyncio.run(scenario())


def test_only_those_that_are_late():
    async def scenario():
        limits = Deadlines(asyncio.get_running_loop())
        body = asyncio.get_running_loop().create_future()
        late = asyncio.ensure_future(wait(limits, asyncio.sleep(60), 0.01))
        early = asyncio.ensure_future(wait(limits, body, 60))
        assert await late == "late"
        body.set_result(None)
        assert await early == "there"

    asyncio.run(scenario())


def test_shorter_ones_for_those_who_wait_and_those_who_will():
    async def scenario():
        loop = asyncio.get_running_loop()
        limits = Deadlines(loop)
        body = loop.create_future()
        waiting = asyncio.ensure_future(wait(limits, loop.create_future(), 600))
        short = asyncio.ensure_future(wait(limits, loop.create_future(), 0.01))
        await asyncio.sleep(0)
        limits.shorten(60)
        assert await short == "late"
        limits.shorten(0.01)
        assert await waiting == "late"
        assert await wait(limits, body, 600) == "late"
        limits.shorten(60)
        body = loop.create_future()
        body.set_result(None)
        assert await wait(limits, body, 600) == "there"

    asyncio.run(scenario())


def test_anybody_else_s_cancelling_is_not_taken_for_it():
    async def scenario():
        limits = Deadlines(asyncio.get_running_loop())
        task = asyncio.ensure_future(wait(limits, asyncio.sleep(60), 60))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(scenario())


def test_it_sweeps_only_while_somebody_waits():
    async def scenario():
        loop = asyncio.get_running_loop()
        limits = Deadlines(loop)
        await wait(limits, asyncio.sleep(0), 60)
        deadline = loop.time() + 10
        while limits._timer is not None:
            assert loop.time() < deadline
            await asyncio.sleep(0.005)

    asyncio.run(scenario())
