"""What every `EngineHandle` must do. A further implementation is one line in `RIGS`."""

import asyncio
import hashlib
from pathlib import Path

import msgspec
import pytest

from tests.frontend.engines.memory_handle import MemoryHandle
from tests.frontend.gateway import Engine, until
from tests.wire.link import free_port
from vgate.config import Config, EngineSpec, Runtime, local_engines
from vgate.config.links import EngineLink
from vgate.config.roles import topology
from vgate.config.schema import Batch, DryRun
from vgate.engine.backends.dry_run.vocabulary import ASSISTANT, END, USER
from vgate.engine.served_files import CHUNK_BYTES
from vgate.errors import DeadlineExceededError, EngineUnavailableError, ShuttingDownError
from vgate.frontend.engines.client import EngineClient
from vgate.frontend.engines.handle import EngineHandle, Loss
from vgate.frontend.engines.remote.client import RemoteEngine
from vgate.frontend.engines.sequence import Sequence
from vgate.wire.codec import pack_token_ids
from vgate.wire.link_keys import client_keys, make_keys
from vgate.wire.messages import Generate, ModelInfo
from vgate.wire.model_files import FileInfo
from vgate.wire.parameters import DEFAULTS

LIMITED = msgspec.structs.replace(DEFAULTS, max_tokens=100)
ENDLESS = msgspec.structs.replace(DEFAULTS, max_tokens=1900, ignore_eos=True)


class Owner:
    """Notes what a handle calls."""

    def __init__(self) -> None:
        self.models: list[ModelInfo] = []
        self.losses: list[Loss] = []

    def on_model(self, _handle: EngineHandle, model: ModelInfo) -> None:
        self.models.append(model)

    def on_lost(self, _handle: EngineHandle, loss: Loss) -> None:
        self.losses.append(loss)


class ClientRig:
    """The real client, and a real engine loop with the dry-run backend."""

    def __init__(self, owner: Owner, run_dir: Path) -> None:
        config = self.config(run_dir)
        self._runtime = Runtime(
            config=config,
            backend="dry_run",
            run_dir=str(run_dir),
            engines=self.topology(config, run_dir),
        )
        self._engine: Engine | None = None
        self.handle = self.connect(self._runtime.engines[0].address, owner)

    def config(self, run_dir: Path) -> Config:
        dry_run = DryRun(step_ms=1, prefill_tokens_per_s=1e9)
        return Config(dry_run=dry_run, batch=Batch(max_num_seqs=8))

    def topology(self, config: Config, run_dir: Path) -> list[EngineSpec]:
        return local_engines(config, str(run_dir))

    def connect(self, address: str, owner: Owner) -> EngineClient:
        return EngineClient(asyncio.get_running_loop(), address, "test", owner)

    async def start(self) -> None:
        self._engine = Engine(self._runtime)
        self._engine.start()
        await until(lambda: self.handle.connected, "the engine is connected")

    async def stop(self) -> None:
        if self._engine is not None:
            await self._engine.stop()
            self._engine = None

    def idle(self) -> bool:
        return self._engine is None or self._engine.idle


class RemoteRig(ClientRig):
    """The client of an engine on another host, over tcp with keys."""

    def __init__(self, owner: Owner, run_dir: Path) -> None:
        make_keys(run_dir / "keys")
        super().__init__(owner, run_dir)

    def config(self, run_dir: Path) -> Config:
        link = EngineLink(listen=f"tcp://127.0.0.1:{free_port()}", keys=str(run_dir / "keys"))
        return msgspec.structs.replace(super().config(run_dir), engine_link=link)

    def topology(self, config: Config, run_dir: Path) -> list[EngineSpec]:
        return topology(config, str(run_dir), "engine")

    def connect(self, address: str, owner: Owner) -> EngineClient:
        keys = client_keys(self._runtime.config.link_keys)
        return RemoteEngine(asyncio.get_running_loop(), address, "test", owner, keys)


class MemoryRig:
    """The fake that the pool's tests use."""

    def __init__(self, owner: Owner, _run_dir: Path) -> None:
        self.handle = MemoryHandle(asyncio.get_running_loop(), owner)

    async def start(self) -> None:
        content = bytes(3 * CHUNK_BYTES // 2)
        file = FileInfo("tokenizer.json", hashlib.sha256(content).digest(), len(content))
        self.handle.files[file.digest] = content
        self.handle.start(ModelInfo(["m"], [file], 100, 4, 1000, 1, "fake"))

    async def stop(self) -> None:
        if self.handle.connected:
            self.handle.stop()

    def idle(self) -> bool:
        return not self.handle.running


RIGS = {"client": ClientRig, "remote": RemoteRig, "memory": MemoryRig}


class Answer:
    """An answer that counts how often it is flushed after its sequences' ends."""

    def __init__(self) -> None:
        self.touched = False
        self.sequences: list[Sequence] = []
        self.ends = 0

    def flush(self) -> None:
        if all(s.error or s.finish_reason for s in self.sequences):
            self.ends += 1

    def restart(self, _sequence: Sequence) -> bool:
        return True


class Play:
    """A handle, its engine and what was submitted."""

    def __init__(self, rig) -> None:
        self.owner = Owner()
        self._rig_of = rig
        self._last_id = 0

    def build(self, run_dir: Path) -> None:
        self.rig = self._rig_of(self.owner, run_dir)
        self.handle: EngineHandle = self.rig.handle

    def submit(self, text=b"hello", sampling=LIMITED, timeout_s=60.0, count=1) -> Answer:
        answer = Answer()
        prompt = pack_token_ids([USER, *text, END, ASSISTANT])
        for index in range(count):
            sequence = Sequence(answer, index)
            answer.sequences.append(sequence)
            self._last_id += 1
            self.handle.submit(sequence, Generate(self._last_id, prompt, sampling), timeout_s)
        return answer


@pytest.fixture(params=RIGS)
def play(request, tmp_path_factory):
    def run(scenario, *, start=True):
        async def main():
            async with asyncio.timeout(60):
                play = Play(RIGS[request.param])
                play.build(tmp_path_factory.mktemp("h"))
                try:
                    if start:
                        await play.rig.start()
                    await scenario(play)
                finally:
                    play.handle.close()
                    await play.rig.stop()

        asyncio.run(main())

    return run


def test_it_reports_the_model_when_it_is_connected(play):
    async def scenario(play):
        assert not play.handle.connected
        assert play.handle.refusal is None
        await play.rig.start()
        assert play.handle.connected
        assert len(play.owner.models) == 1

    play(scenario, start=False)


def test_a_sequence_gets_its_tokens_and_one_end(play):
    async def scenario(play):
        answer = play.submit(b"hello")
        assert play.handle.in_flight == 1
        (sequence,) = answer.sequences
        await until(lambda: sequence.finish_reason, "its end")
        assert bytes(sequence.pending[:-1]) == b"hello"
        assert (sequence.finish_reason, sequence.error) == ("stop", None)
        assert (play.handle.in_flight, answer.ends) == (0, 1)

    play(scenario)


def test_sequences_do_not_mix(play):
    async def scenario(play):
        answers = {text: play.submit(text) for text in (b"one", b"two two", b"three")}
        await until(lambda: all(a.ends for a in answers.values()), "all ends")
        for text, answer in answers.items():
            assert bytes(answer.sequences[0].pending[:-1]) == text

    play(scenario)


def test_an_aborted_sequence_has_no_end(play):
    async def scenario(play):
        answer, other = play.submit(sampling=ENDLESS), play.submit(sampling=ENDLESS)
        play.handle.abort(answer.sequences)
        play.handle.abort(answer.sequences)
        assert play.handle.in_flight == 1
        assert answer.sequences[0].error is answer.sequences[0].finish_reason is None
        play.handle.abort(other.sequences)
        await until(play.rig.idle, "the engine stops")
        assert answer.ends == 0

    play(scenario)


def test_a_deadline_ends_a_sequence_and_stops_it(play):
    async def scenario(play):
        answer = play.submit(sampling=ENDLESS, timeout_s=0.05)
        await until(lambda: answer.ends, "the deadline")
        assert type(answer.sequences[0].error) is DeadlineExceededError
        assert play.handle.in_flight == 0
        await until(play.rig.idle, "the engine stops")
        assert answer.ends == 1

    play(scenario)


def test_fail_all_ends_all_with_the_error_and_flushes_an_answer_once(play):
    async def scenario(play):
        answers = [play.submit(sampling=ENDLESS, count=3), play.submit(sampling=ENDLESS)]
        error = ShuttingDownError("over")
        play.handle.fail_all(error)
        assert all(s.error is error for a in answers for s in a.sequences)
        assert [answer.ends for answer in answers] == [1, 1]
        assert play.handle.in_flight == 0
        await until(play.rig.idle, "the engine stops")

    play(scenario)


def test_a_lost_engine_gives_its_sequences_back_and_the_next_one_is_connected(play):
    async def scenario(play):
        answer = play.submit(sampling=ENDLESS, count=2)
        await play.rig.stop()
        await until(lambda: play.owner.losses, "the loss")
        (loss,) = play.owner.losses
        assert loss.sequences == answer.sequences
        assert not loss.refused
        assert loss.reason
        assert (play.handle.connected, play.handle.in_flight, answer.ends) == (False, 0, 0)
        await play.rig.start()
        assert len(play.owner.models) == 2
        again = play.submit(b"again")
        await until(lambda: again.ends, "the end of another one")

    play(scenario)


def test_the_models_files_can_be_read_in_chunks(play):
    async def scenario(play):
        (model,) = play.owner.models
        assert model.files
        running = play.submit(sampling=ENDLESS)
        for file in model.files:
            content = b""
            while chunk := await play.handle.read_file(file.digest, len(content)):
                assert len(chunk) <= CHUNK_BYTES
                content += chunk
            assert len(content) == file.size
            assert hashlib.sha256(content).digest() == file.digest
        assert await play.handle.read_file(b"unknown", 0) == b""
        assert running.ends == 0

    play(scenario)


def test_a_read_ends_with_its_engine(play):
    async def scenario(play):
        digest = play.owner.models[0].files[0].digest
        reads = [asyncio.ensure_future(play.handle.read_file(digest, 0))]
        await play.rig.stop()
        await until(lambda: play.owner.losses, "the loss")
        reads.append(asyncio.ensure_future(play.handle.read_file(digest, 0)))
        done = await asyncio.gather(*reads, return_exceptions=True)
        assert isinstance(done[0], bytes | EngineUnavailableError)
        assert isinstance(done[1], EngineUnavailableError)

    play(scenario)


def test_nothing_is_called_after_close(play):
    async def scenario(play):
        play.submit(sampling=ENDLESS)
        play.handle.close()
        assert not play.owner.losses
        await play.rig.stop()
        await asyncio.sleep(0.1)
        assert not play.owner.losses

    play(scenario)


def test_it_says_how_far_its_sequences_are(play):
    async def scenario(play):
        assert await play.handle.progress() == {}
        answer = play.submit(sampling=ENDLESS, count=2)
        ids = {sequence.id for sequence in answer.sequences}
        assert (await play.handle.progress()).keys() == ids
        play.handle.abort(answer.sequences)
        # One that asks while the engine goes away is answered, too.
        asked = [asyncio.ensure_future(play.handle.progress()) for _ in range(2)]
        await asyncio.sleep(0)
        await play.rig.stop()
        assert await asyncio.gather(*asked) == [{}, {}]
        assert await play.handle.progress() == {}

    play(scenario)
