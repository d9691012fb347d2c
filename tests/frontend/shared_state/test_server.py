"""The link to a real server that is killed, paused, filled, locked and made read-only."""

import asyncio
import time
from importlib.util import find_spec

import pytest

from tests.frontend.gateway import until
from tests.state_server import StateServer, find_server
from vgate.config.schema import State
from vgate.frontend.shared_state.calls import TICKS, Call
from vgate.frontend.shared_state.server import SharedState, StateAwayError

pytestmark = pytest.mark.skipif(
    not (find_server() and find_spec("redis")), reason="needs redis-server and the package redis"
)

KEYS = tuple(f"vgate:{{k}}:{n}" for n in range(7))
# Only a hang takes longer.
HANG_S = 20


@pytest.fixture
def server():
    with StateServer() as started:
        yield started


def admit(id_, **more):
    return Call(
        op="admit",
        id=id_,
        second=TICKS,
        lease=10 * TICKS,
        requests=1000,
        window=60 * TICKS,
        token_window=60 * TICKS,
        cost=1,
        tokens=0,
        **more,
    )


class Link:
    """A link in this test's loop."""

    def __init__(self, server, **settings):
        self.server = server
        self.state = SharedState(
            asyncio.get_running_loop(), State(url=server.url, **{"timeout_ms": 2000} | settings)
        )

    async def admit(self, id_="one"):
        return await self.state.call(KEYS, admit(id_))

    async def wait_until(self, *, away):
        await until(lambda: (self.state.away is not None) == away, f"away: {away}")

    async def send(self, *command):
        """Send a command on a connection of its own."""
        import redis

        with redis.Redis(port=self.server.port) as client:
            return client.execute_command(*command)


@pytest.fixture
def play(server):
    """Play a scenario with a link."""

    def run(scenario, **settings):
        async def main():
            link = Link(server, **settings)
            try:
                async with asyncio.timeout(HANG_S * 3):
                    await scenario(link)
            finally:
                link.state.close()
                # One that is cancelled in the middle of a call has a connection still.
                await asyncio.wait(link.state._tasks, timeout=HANG_S)
                await link.state.client.aclose()

        asyncio.run(main())

    return run


def test_calls_at_once_are_each_answered(play):
    async def scenario(link):
        answers = await asyncio.gather(*(link.admit(f"id{n}") for n in range(1500)))
        assert sum(answer.reason is None for answer in answers) == 1000
        assert sorted(a.requests for a in answers if a.reason is None) == list(range(1, 1001))
        assert link.state.away is None

    play(scenario)


def test_a_loop_that_was_held_up_takes_the_answer_that_came_meanwhile(play):
    async def scenario(link):
        await link.admit("one")
        run = link.state._script.run

        async def held_up(calls):
            under_way = asyncio.ensure_future(run(calls))
            for _ in range(20):
                await asyncio.sleep(0)
            time.sleep(1)  # noqa: ASYNC251 - as any long work does
            return await under_way

        link.state._script.run = held_up
        assert (await link.admit("two")).reason is None
        link.state._script.run = run
        # What was read late doesn't make the next deadline come too early.
        assert (await link.admit("three")).requests == 3
        assert link.state.away is None

    play(scenario, timeout_ms=500)


def test_a_script_that_the_server_has_forgotten_is_sent_again(play):
    async def scenario(link):
        await link.admit("one")
        await link.send("SCRIPT", "FLUSH")
        assert (await link.admit("two")).requests == 2
        assert link.state.away is None

    play(scenario)


def test_a_server_that_is_gone_is_used_again_when_it_is_back(play, server):
    async def scenario(link):
        told = []
        link.state.on_back.append(lambda: told.append("back"))
        await link.admit()
        await until(lambda: told, "it is there for the first time")
        told.clear()
        server.kill()
        with pytest.raises(StateAwayError):
            await link.admit()
        await link.wait_until(away=True)
        assert link.state.problems()
        link.state.post(KEYS, admit("owed"))
        with pytest.raises(StateAwayError) as refused:
            await link.admit()
        assert not refused.value.unsure  # it was not even sent
        server.start()
        await link.wait_until(away=False)
        assert link.state.problems() == []
        assert told == ["back"]
        # What had to arrive has, and is the only thing that the new server knows.
        assert (await link.admit("now")).requests == 2

    play(scenario)


def test_a_server_that_was_restarted_decides_on_nothing_at_first(play, server):
    async def scenario(link):
        began = time.monotonic()
        await link.wait_until(away=False)
        await link.admit("one")
        settled_at = link.state.settled_at
        assert settled_at > began  # it was started for this test
        server.kill()
        server.start()
        with pytest.raises(StateAwayError):
            await link.admit("two")
        await link.wait_until(away=False)
        assert link.state.settled_at > settled_at
        assert "restarted" in link.state.problems()[0]
        link.state.settled_at = 0.0
        assert link.state.problems() == []

    play(scenario, on_failure="refuse")


def test_a_strict_link_is_away_until_it_has_been_answered(play, server):
    server.pause()

    async def scenario(link):
        with pytest.raises(StateAwayError):
            await link.admit()
        server.go_on()
        await link.wait_until(away=False)
        assert (await link.admit()).requests == 1

    play(scenario, on_failure="refuse")


@pytest.mark.parametrize("how", ["SIGSTOP", "CLIENT PAUSE"])
def test_a_paused_server_holds_nobody_up_and_counts_nobody_late(play, server, how):
    async def scenario(link):
        await link.admit("before")
        if how == "SIGSTOP":
            server.pause()
        else:
            await link.send("CLIENT", "PAUSE", "2000")
        began = time.monotonic()
        asked = await asyncio.gather(
            *(link.admit(f"id{n}") for n in range(50)), return_exceptions=True
        )
        assert all(isinstance(each, StateAwayError) for each in asked)
        assert time.monotonic() - began < HANG_S
        await link.wait_until(away=True)
        if how == "SIGSTOP":
            server.go_on()
        await link.wait_until(away=False)
        # It has read what was sent before, and done nothing of it.
        assert (await link.admit("after")).requests == 2

    play(scenario, timeout_ms=300)


@pytest.mark.parametrize(
    ("trouble", "end", "reason"),
    [
        ([("REPLICAOF", "127.0.0.1", "1")], [("REPLICAOF", "NO", "ONE")], "read-only replica"),
        (
            [("CONFIG", "SET", "min-replicas-to-write", "1")],
            [("CONFIG", "SET", "min-replicas-to-write", "0")],
            "too few replicas",
        ),
    ],
)
def test_a_server_that_takes_no_writes_is_away(play, trouble, end, reason):
    async def scenario(link):
        await link.admit("one")
        for command in trouble:
            await link.send(*command)
        with pytest.raises(StateAwayError, match=reason):
            await link.admit("two")
        assert reason in link.state.problems()[0]
        # It stays so: a ping would have been answered.
        await asyncio.sleep(0.3)
        assert link.state.away is not None
        for command in end:
            await link.send(*command)
        await link.wait_until(away=False)
        assert (await link.admit("three")).requests == 2  # nothing of the second was kept

    play(scenario)


def test_a_full_server_goes_on_counting(play):
    async def scenario(link):
        import redis

        await link.admit("one")
        await link.send("CONFIG", "SET", "maxmemory", "1")
        with pytest.raises(redis.OutOfMemoryError):
            await link.send("SET", "something", "else")
        assert (await link.admit("two")).requests == 2
        end = admit("one")
        end.op, end.abandon = "settle", True
        assert (await link.state.call(KEYS, end)).requests == 1
        assert link.state.away is None

    play(scenario)


def test_a_password_that_was_changed_is_named(play, server):
    async def scenario(link):
        import redis

        await link.admit("one")
        await link.send("CONFIG", "SET", "requirepass", "secret")
        with redis.Redis(port=server.port, password="secret") as admin:
            admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            with pytest.raises(StateAwayError):
                await link.admit("two")
            await until(lambda: "password" in (link.state.away or ""), "it is named")
            admin.execute_command("CONFIG", "SET", "requirepass", "")
        await link.wait_until(away=False)
        await link.admit("four")

    play(scenario)


def test_a_wrong_answer_for_one_key_is_not_the_servers(play):
    async def scenario(link):
        await link.send("SET", KEYS[1], "not ours")
        with pytest.raises(StateAwayError, match="WRONGTYPE"):
            await link.admit()
        assert link.state.away is None

    play(scenario)


def test_what_lasts_is_sent_until_it_has_arrived_and_the_rest_is_not(play, server):
    async def scenario(link):
        await link.admit("one")
        server.pause()
        link.state.post(KEYS, admit("lasts"))
        link.state.post(KEYS, admit("does not"), lasting=False)
        await link.wait_until(away=True)
        server.go_on()
        await link.wait_until(away=False)
        async with asyncio.timeout(HANG_S):
            while (await link.state.call(KEYS, look())).requests != 2:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        assert (await link.state.call(KEYS, look())).requests == 2

    def look():
        call = admit("look")
        call.op = "usage"
        return call

    play(scenario, timeout_ms=300)


def test_a_server_that_was_never_there_is_found_later(play, server):
    server.kill()

    async def scenario(link):
        await link.wait_until(away=True)
        assert "Connect" in link.state.away or "refused" in link.state.away
        server.start()
        await link.wait_until(away=False)
        assert (await link.admit()).requests == 1

    play(scenario)


@pytest.mark.parametrize("on_failure", ["local", "refuse"])
@pytest.mark.parametrize("error", [None, OSError("gone")])
def test_a_loop_ends_though_the_library_swallows_that_it_does(on_failure, error):
    async def swallow():
        try:
            await asyncio.sleep(HANG_S)
        except asyncio.CancelledError:
            if error is not None:
                raise error from None

    async def main():
        settings = State(url="redis://127.0.0.1:1", on_failure=on_failure)
        SharedState(asyncio.get_running_loop(), settings)._probe = swallow
        await asyncio.sleep(0.01)

    began = time.monotonic()
    asyncio.run(main())
    assert time.monotonic() - began < HANG_S
