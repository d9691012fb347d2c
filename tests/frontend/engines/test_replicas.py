"""A worker with two engines for one model: real engine loops with the dry-run backend."""

import asyncio

import pytest

from tests.frontend.gateway import Engine, Gateway, until
from vgate.config import Config, EngineSpec
from vgate.config.schema import Cache, DryRun, Routing
from vgate.frontend.routing import POLICIES

SLOW = DryRun(step_ms=5, prefill_tokens_per_s=1e9)


class Pair(Gateway):
    """A gateway with two engines for its model. The launcher supervises the first one only."""

    def __init__(self, run_dir, policy, *, cached) -> None:
        model = Config().model.name
        specs = [
            EngineSpec(
                model=model,
                replica=replica,
                address=f"ipc://{run_dir}/replica-{replica}.sock",
                supervised=replica == 0,
            )
            for replica in range(2)
        ]
        super().__init__(
            run_dir,
            engines=specs,
            dry_run=SLOW,
            routing=Routing(policy=policy),
            cache=Cache(enabled=cached),
        )
        self.engines: dict[int, Engine] = {}

    async def __aexit__(self, *exception: object) -> None:
        for engine in list(self.engines.values()):
            await engine.stop()
        await super().__aexit__(*exception)

    @property
    def pool(self):
        return self.app.models[0].engine

    async def start(self, *numbers: int) -> None:
        for number in numbers:
            self.engines[number] = Engine(self.runtime, number)
            self.engines[number].start()
        await until(lambda: len(self.pool._usable) == len(self.engines), "all are connected")
        await until(lambda: self.app.models.not_ready_because() is None, "the worker is ready")

    async def kill(self, number: int) -> None:
        await self.engines.pop(number).stop()

    @property
    def running(self) -> list[int]:
        return [len(engine.scheduler.running) for engine in self.engines.values()]


@pytest.fixture
def pair(tmp_path_factory):
    def run(scenario, policy="round_robin", *, cached=False):
        async def main():
            run_dir = tmp_path_factory.mktemp("p")
            async with asyncio.timeout(60), Pair(run_dir, policy, cached=cached) as gateway:
                await scenario(gateway)

        asyncio.run(main())

    return run


def text_of(protocol) -> str:
    text: str = protocol.json["choices"][0]["message"]["content"]
    return text


def test_requests_are_spread_over_both(pair):
    async def scenario(gateway):
        await gateway.start(0, 1)
        begun = [gateway.begin_chat(f"{n}" * 40) for n in range(4)]
        await until(lambda: gateway.running == [2, 2], "two run in each")
        await asyncio.gather(*(task for _, task in begun))
        assert [text_of(protocol) for protocol, _ in begun] == [f"{n}" * 40 for n in range(4)]
        assert gateway.pool.in_flight == 0

    pair(scenario)


@pytest.mark.parametrize("stream", [False, True])
def test_the_other_one_continues_what_a_dead_one_ran(pair, stream):
    async def scenario(gateway):
        await gateway.start(0, 1)
        begun = [gateway.begin_chat("abcdefgh" * 8, stream=stream) for _ in range(2)]
        await until(lambda: gateway.running == [1, 1], "one runs in each")
        if stream:
            await until(lambda: all(len(p.parts) > 3 for p, _ in begun), "both have begun")
        await gateway.kill(0)
        # Nobody waits for another engine, and new requests are served as well.
        await asyncio.gather(*(task for _, task in begun))
        for protocol, _ in begun:
            assert protocol.status == 200
            if stream:
                assert protocol.events[-1] == "[DONE]"
                assert protocol.body.count(b'"finish_reason":"stop"') == 1
            else:
                assert text_of(protocol) == "abcdefgh" * 8
        assert text_of(await gateway.chat("more")) == "more"

    pair(scenario)


def test_one_is_enough_to_be_ready(pair):
    async def scenario(gateway):
        gateway.tell_state("starting", "loading")
        await gateway.start(1)
        assert text_of(await gateway.chat("hi")) == "hi"
        state = gateway.app.models[0].state
        assert (state.state, state.engine) == ("ready", 1)
        await gateway.kill(1)
        await until(lambda: not gateway.pool.connected, "the loss is noticed")
        assert "connected" in gateway.app.models.not_ready_because()
        await gateway.start(0)
        assert text_of(await gateway.chat("hi")) == "hi"

    pair(scenario)


def test_a_client_that_leaves_stops_its_sequences_in_both(pair):
    async def scenario(gateway):
        await gateway.start(0, 1)
        protocol, task = gateway.begin_chat("x", ignore_eos=True, max_tokens=1900, n=4)
        await until(lambda: gateway.running == [2, 2], "two run in each")
        left = await until(lambda: protocol.disconnected, "its client is watched")
        left.set_result(None)
        await task
        await until(lambda: all(e.idle for e in gateway.engines.values()), "both stop")

    pair(scenario)


@pytest.mark.parametrize("policy", POLICIES)
def test_identical_requests_share_one_generation(pair, policy):
    async def scenario(gateway):
        await gateway.start(0, 1)
        begun = [gateway.begin_chat("same" * 30) for _ in range(6)]
        others = [gateway.begin_chat(f"{n}" * 100) for n in range(6)]
        most = 0
        while not all(task.done() for _, task in begun):
            most = max(most, sum(gateway.running))
            await asyncio.sleep(0.001)
        outcomes = sorted(protocol.headers["x-vgate-cache"] for protocol, _ in begun)
        assert outcomes == ["coalesced"] * 5 + ["miss"]
        assert most <= 7
        await asyncio.gather(*(task for _, task in others))
        again = await gateway.chat("same" * 30)
        assert again.headers["x-vgate-cache"] == "hit"

    pair(scenario, policy, cached=True)


def test_a_conversation_stays_with_the_engine_that_has_it(pair):
    async def scenario(gateway):
        await gateway.start(0, 1)

        async def talk(number: int) -> list[int]:
            said, cached = f"{number} says " * 60, []
            for turn in range(4):
                protocol = await gateway.chat(said, max_tokens=8)
                usage = protocol.json["usage"]
                cached.append(usage["prompt_tokens_details"]["cached_tokens"])
                said += f"{turn} and more"
                # As long as engines may take to report.
                await asyncio.sleep(0.05)
            return cached

        for cached in await asyncio.gather(*(talk(number) for number in range(6))):
            assert all(tokens >= 400 for tokens in cached[1:])

    pair(scenario, "prefix_aware")
