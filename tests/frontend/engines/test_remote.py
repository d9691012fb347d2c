"""Engines on other hosts: links that are held and cut, blame, and names for several engines."""

import asyncio
from pathlib import Path
from unittest.mock import Mock

import pytest
import zmq

from tests.frontend.gateway import DEADLINE_S, Engine, until
from tests.wire.link import Link, free_port
from vgate.config import Config, Runtime
from vgate.config.links import EngineLink
from vgate.config.roles import topology
from vgate.config.schema import Batch, DryRun
from vgate.engine.backends.dry_run.vocabulary import ASSISTANT, END, USER
from vgate.frontend.engines.pool import EnginePool
from vgate.frontend.engines.remote import connect
from vgate.frontend.engines.remote.client import RemoteEngine
from vgate.frontend.engines.remote.discovery import Discovery, Target
from vgate.frontend.engines.resumption import Survivors
from vgate.frontend.engines.sequence import Sequence
from vgate.wire import curve
from vgate.wire.codec import pack_token_ids
from vgate.wire.link_keys import LinkKeyError, client_keys, make_keys
from vgate.wire.messages import Generate
from vgate.wire.parameters import DEFAULTS
from vgate.wire.sockets import Dealer

GREEDY = {"temperature": 0.0, "max_tokens": 400}
TEXT = b"abcdefghij" * 40


@pytest.fixture
def impatient(monkeypatch):
    """Find a cut link sooner than in service."""
    monkeypatch.setitem(curve._TCP, zmq.HEARTBEAT_IVL, 200)
    monkeypatch.setitem(curve._TCP, zmq.HEARTBEAT_TIMEOUT, 800)
    monkeypatch.setitem(curve._TCP, zmq.HEARTBEAT_TTL, 1000)
    monkeypatch.setattr("vgate.frontend.engines.remote.client._SILENT_S", 0.6)


class Answer:
    """An answer that can't begin again: its client has seen every token."""

    def __init__(self) -> None:
        self.touched = False
        self.sequence = Sequence(self, 0)

    def flush(self) -> None:
        self.sequence.generated += self.sequence.pending
        self.sequence.pending.clear()

    def restart(self, sequence: Sequence) -> bool:
        return not sequence.generated


class Hosts:
    """Engines behind links, and a pool that is connected to them."""

    def __init__(self, directory: Path, count: int) -> None:
        make_keys(directory)
        self.engines: list[Engine] = []
        self.links: list[Link] = []
        self._runtimes = []
        for number in range(count):
            link = EngineLink(listen=f"tcp://127.0.0.1:{free_port()}", keys=str(directory))
            config = Config(
                engine_link=link,
                dry_run=DryRun(step_ms=5, prefill_tokens_per_s=1e9),
                batch=Batch(max_num_seqs=8),
            )
            run_dir = str(directory / str(number))
            engines = topology(config, run_dir, "engine")
            self._runtimes.append(Runtime(config, "dry_run", run_dir, engines))
            self.engines.append(Engine(self._runtimes[-1]))
            self.links.append(Link(int(link.listen.rpartition(":")[2])))
        loop = asyncio.get_running_loop()
        self.pool = EnginePool(
            loop,
            on_model=lambda _model: None,
            on_lost=lambda: None,
            survivors=Survivors(enabled=True, hold_s=60, most_held=10),
        )
        keys = client_keys(directory)
        self.handles = [
            RemoteEngine(loop, link.address, "f", self.pool, keys) for link in self.links
        ]
        for handle in self.handles:
            self.pool.add(handle)

    async def connected(self) -> None:
        for engine in self.engines:
            engine.start()
        await until(lambda: all(h.connected for h in self.handles), "all are connected")

    def submit(self) -> Sequence:
        answer = Answer()
        prompt = pack_token_ids([USER, *TEXT, END, ASSISTANT])
        sampling = type(DEFAULTS)(**GREEDY)
        message = Generate(self.pool.next_id(), prompt, sampling)
        self.pool.submit(answer.sequence, message, 60)
        return answer.sequence

    def place_of(self, sequence: Sequence) -> int:
        """Return the number of the engine that runs a sequence."""
        return next(n for n, h in enumerate(self.handles) if sequence.id in h._running)

    async def close(self) -> None:
        self.pool.close()
        for link in self.links:
            link.__exit__()
        for engine in self.engines:
            await engine.stop()


def play(directory: Path, scenario, count: int = 2) -> None:
    async def main() -> None:
        async with asyncio.timeout(DEADLINE_S * 2):
            hosts = Hosts(directory, count)
            try:
                await hosts.connected()
                await scenario(hosts)
            finally:
                await hosts.close()

    asyncio.run(main())


async def finished(sequence: Sequence) -> list[int]:
    await until(lambda: sequence.finish_reason is not None, "it ends")
    return sequence.generated + sequence.pending


@pytest.mark.usefixtures("impatient")
def test_what_a_held_link_delivers_late_reaches_nobody(tmp_path):
    async def scenario(hosts):
        sequence = hosts.submit()
        await until(lambda: len(sequence.generated) > 20, "some tokens")
        first = hosts.place_of(sequence)
        engine, link = hosts.engines[first], hosts.links[first]
        link.hold()
        seen = len(sequence.generated)
        await until(
            lambda: hosts.pool.in_flight and sequence.id in hosts.handles[1 - first]._running,
            "it goes on elsewhere",
        )
        # The engine has not heard of it, and generates for nobody until it notices.
        assert seen <= len(sequence.generated) <= seen + 30
        await until(lambda: len(sequence.generated) > seen + 40, "more tokens")
        assert link.release() > 0
        tokens = await finished(sequence)
        assert tokens[: len(TEXT)] == list(TEXT)[: len(tokens)]
        assert sequence.resumptions == 0
        assert sequence.deaths == 0
        await until(lambda: engine.idle, "the first engine has ended what was for nobody")
        await until(lambda: hosts.handles[first].connected, "it is connected again")

    play(tmp_path, scenario)


def test_links_that_are_cut_again_and_again_end_no_request(tmp_path):
    async def scenario(hosts):
        sequence, cuts = hosts.submit(), 0
        # It goes on while a link comes back, so on a slow machine there is time for fewer cuts.
        while cuts < 4 and (seen := len(sequence.generated)) < len(TEXT) // 2:
            await until(lambda seen=seen: len(sequence.generated) > seen + 10, "tokens")
            cuts += 1
            place, number = hosts.place_of(sequence), sequence.id
            hosts.links[place].cut()
            await until(lambda n=number: sequence.id != n, "it goes on elsewhere")
            await until(lambda: all(h.connected for h in hosts.handles), "both are back")
        assert cuts > 0
        assert sequence.error is None
        assert (await finished(sequence))[: len(TEXT)] == list(TEXT)

    play(tmp_path, scenario)


@pytest.mark.usefixtures("impatient")
def test_all_links_held_at_once_only_pause_a_stream(tmp_path):
    async def scenario(hosts):
        sequence = hosts.submit()
        await until(lambda: len(sequence.generated) > 20, "some tokens")
        for link in hosts.links:
            link.hold()
        await until(lambda: not any(h.connected for h in hosts.handles), "both are lost")
        assert sequence.error is None
        for link in hosts.links:
            link.release()
        assert (await finished(sequence))[: len(TEXT)] == list(TEXT)
        assert sequence.deaths == 0

    play(tmp_path, scenario)


def test_an_engine_that_dies_takes_part_of_the_blame_to_its_requests(tmp_path):
    async def scenario(hosts):
        sequence = hosts.submit()
        await until(lambda: len(sequence.generated) > 20, "some tokens")
        first = hosts.place_of(sequence)
        await hosts.engines[first].stop()
        assert (await finished(sequence))[: len(TEXT)] == list(TEXT)
        assert sequence.deaths == 1

    play(tmp_path, scenario)


@pytest.fixture
def unproved(monkeypatch):
    """Count a death to a sequence however long it has run."""
    monkeypatch.setattr("vgate.frontend.engines.client._PROVED_S", 1e9)


@pytest.mark.usefixtures("unproved")
def test_the_blame_for_a_death_is_taken_back_from_an_engine_that_is_reached_again(tmp_path):
    async def scenario(hosts):
        sequence = hosts.submit()
        await until(lambda: len(sequence.generated) > 20, "some tokens")
        first = hosts.place_of(sequence)
        hosts.links[first].refuse()
        hosts.links[first].cut()
        await until(lambda: hosts.handles[first]._failed > 1, "it is refused")
        assert sequence.deaths == 1
        hosts.links[first].allow()
        await until(lambda: hosts.handles[first].connected, "it is connected again")
        assert (sequence.deaths, sequence.losses) == (0, 0)

    play(tmp_path, scenario)


def test_a_host_that_never_comes_back_keeps_no_sequence_beyond_its_deadline(tmp_path):
    async def scenario(hosts):
        sequence = hosts.submit()
        await until(lambda: len(sequence.generated) > 20, "some tokens")
        first = hosts.handles[hosts.place_of(sequence)]
        await hosts.engines[hosts.handles.index(first)].stop()
        await finished(sequence)
        await until(lambda: first._failed > 1, "it is refused")
        assert [blamed for blamed, _, _ in first._blamed] == [sequence]
        sequence.deadline = asyncio.get_running_loop().time()
        await until(lambda: not first._blamed, "it is forgotten")

    play(tmp_path, scenario)


@pytest.mark.usefixtures("unproved")
def test_an_engine_that_dies_in_a_step_as_long_as_a_cut_takes_gets_its_blame_later(
    tmp_path, monkeypatch
):
    monkeypatch.setattr("vgate.frontend.engines.remote.client._SILENT_S", 0)

    async def scenario(hosts):
        sequence = hosts.submit()
        await until(lambda: len(sequence.generated) > 20, "some tokens")
        first = hosts.place_of(sequence)
        await hosts.engines[first].stop()
        await until(lambda: sequence.deaths == 1, "nothing listens there any more")
        assert (await finished(sequence))[: len(TEXT)] == list(TEXT)
        assert (sequence.deaths, sequence.losses) == (1, 1)

    play(tmp_path, scenario)


@pytest.mark.usefixtures("impatient")
def test_an_engine_ends_what_belongs_to_a_frontend_that_is_gone(tmp_path):
    async def scenario(hosts):
        sequence = hosts.submit()
        await until(lambda: len(sequence.generated) > 5, "some tokens")
        hosts.links[0].hold()
        hosts.pool.close()
        await until(lambda: hosts.engines[0].idle, "it is aborted")

    play(tmp_path, scenario, count=1)


class Names:
    """Discovery with a name server that the test speaks for."""

    def __init__(self, monkeypatch) -> None:
        self.hosts: dict[str, list[str]] = {}
        self.engines: list[Target] = []
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "getaddrinfo", self._look_up)
        self.discovery = Discovery(loop, self._add, self._remove, 0.01)

    async def _look_up(self, host, port, **_options):
        if ".." in host:
            raise UnicodeError("label empty or too long")  # as the real one does
        if not (found := self.hosts.get(host)):
            raise OSError("no such name")
        return [(10 if ":" in each else 2, 1, 6, "", (each, port)) for each in found]

    def _add(self, target: Target) -> Target:
        if target.public_key == "broken":
            raise LinkKeyError("it can't be read")
        if target.public_key == "odd":
            Dealer("tcp://10.0.0.1:1\n", "f")
        self.engines.append(target)
        return target

    def _remove(self, target: Target, engine: Target) -> None:
        assert target == engine
        self.engines.remove(engine)

    async def are(self, *addresses: str) -> None:
        wanted = sorted(f"tcp://{address}" for address in addresses)
        await until(lambda: sorted(t.address for t in self.engines) == wanted, str(addresses))


class TestNames:
    @pytest.fixture
    def names(self, monkeypatch):
        def run(scenario):
            async def main():
                names = Names(monkeypatch)
                await scenario(names)
                names.discovery.follow([])

            asyncio.run(main())

        return run

    def test_each_address_of_a_name_is_an_engine(self, names):
        async def scenario(names):
            names.hosts["pods"] = ["10.0.0.1", "10.0.0.2"]
            names.discovery.follow([Target("tcp://pods:5710"), Target("tcp://10.9.9.9:1")])
            await names.are("10.0.0.1:5710", "10.0.0.2:5710", "10.9.9.9:1")
            names.hosts["pods"] = ["10.0.0.2", "10.0.0.3"]
            await names.are("10.0.0.2:5710", "10.0.0.3:5710", "10.9.9.9:1")
            names.discovery.follow([Target("tcp://10.9.9.9:1")])
            await names.are("10.9.9.9:1")

        names(scenario)

    def test_a_name_that_is_not_found_changes_nothing(self, names):
        async def scenario(names):
            names.discovery.follow([Target("tcp://pods:1")])
            await asyncio.sleep(0.05)
            names.hosts["pods"] = ["10.0.0.1"]
            await names.are("10.0.0.1:1")
            del names.hosts["pods"]
            await asyncio.sleep(0.05)
            await names.are("10.0.0.1:1")

        names(scenario)

    def test_what_cannot_be_a_name_keeps_no_other_name_from_being_found(self, names):
        async def scenario(names):
            names.hosts["pods"] = ["10.0.0.1"]
            names.discovery.follow([Target("tcp://a..b:1"), Target("tcp://pods:1")])
            await names.are("10.0.0.1:1")

        names(scenario)

    def test_a_host_with_addresses_of_both_kinds_is_one_engine(self, names):
        async def scenario(names):
            names.hosts = {"both": ["fd00::1", "10.0.0.1"], "six": ["fd00::2"]}
            names.discovery.follow([Target("tcp://both:1"), Target("tcp://six:2")])
            await names.are("10.0.0.1:1", "[fd00::2]:2")

        names(scenario)

    @pytest.mark.parametrize("problem", ["broken", "odd"])
    def test_what_cannot_be_connected_to_keeps_nothing_else_out(self, names, problem):
        async def scenario(names):
            names.discovery.follow(
                [Target("tcp://10.0.0.1:1", problem), Target("tcp://10.0.0.2:1")]
            )
            await names.are("10.0.0.2:1")

        names(scenario)


def test_an_engine_that_comes_back_takes_no_other_ones_number(monkeypatch, tmp_path):
    found: dict[int, str] = {}
    for host in range(100_000):
        address = f"tcp://10.0.{host >> 8}.{host & 255}:1"
        number = connect._found_number(Target(address), ())
        if number in found:
            first, second = Target(found[number]), Target(address)
            break
        found[number] = address
    calls = []
    monkeypatch.setattr(connect, "Discovery", lambda _loop, *called: calls.extend(called))
    monkeypatch.setattr(connect, "_follow", lambda *_given: None)
    monkeypatch.setattr(connect, "RemoteEngine", lambda _loop, address, *_given: address)
    config = Config(engine_link=EngineLink(plaintext=True))
    runtime = Runtime(config, "dry_run", str(tmp_path), [])
    pool = Mock(spec=EnginePool)
    handles = connect.connect_engines(Mock(), runtime, config.model.name, 1, Mock(), pool)
    add, remove, _every_s = calls
    remove(first, add(first))
    add(second)
    add(first)
    assert sorted(handles.values()) == sorted([first.address, second.address])
