"""When a model's files are read, and what happens to them when engines come and go."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from tests.frontend.engines.memory_handle import MemoryHandle
from tests.frontend.gateway import until
from vgate.config.model import LoraAdapter, Model
from vgate.engine.backends.dry_run.vocabulary import built_in_files
from vgate.engine.served_files import describe
from vgate.errors import EngineUnavailableError
from vgate.frontend.engines.resumption import Survivors
from vgate.frontend.engines.served_model import ServedModel, identity_of
from vgate.wire.control import EngineState
from vgate.wire.messages import ModelInfo
from vgate.wire.model_files import TOKENIZER, ModelFiles

FILES = built_in_files()


def described(files: ModelFiles, created: int = 1) -> ModelInfo:
    return ModelInfo(["m"], describe(files), 100, 4, 1000, created, "fake")


def test_the_identity_is_all_that_shapes_answers():
    info = described(FILES)
    model = Model(model_id="m")

    def of(info=info, **settings):
        return identity_of(msgspec.structs.replace(model, **settings), info)

    assert of() == of(gpu_memory_utilization=0.5, tensor_parallel_size=2)
    assert of() == of(msgspec.structs.replace(info, created=7, kv_cache_tokens=9))
    shaping = [
        of(dtype="float32"),
        of(revision="r"),
        of(lora_adapters=[LoraAdapter(name="a", path="/a")]),
        of(engine_args={"seed": 1}),
        of(reasoning_parser="think"),
        of(msgspec.structs.replace(info, fingerprint="other")),
        of(msgspec.structs.replace(info, backend="other")),
    ]
    assert len({of(), *shaping}) == len(shaping) + 1


class Play:
    def __init__(self, directory: Path, engines: int, hold_s: float) -> None:
        loop = asyncio.get_running_loop()
        self.engines: list[MemoryHandle] = []
        self.changes = 0

        def connect(owner):
            self.engines = [MemoryHandle(loop, owner) for _ in range(engines)]
            return dict(enumerate(self.engines))

        self.model = ServedModel(
            loop,
            Model(model_id="m"),
            connect,
            files=directory,
            state=lambda _numbers: (
                EngineState("restarting", "it died", 0.0) if self.changes else None
            ),
            on_change=self.changed,
            survivors=Survivors(enabled=True, hold_s=hold_s, most_held=2),
        )

    def changed(self) -> None:
        self.changes += 1

    def start(
        self,
        number: int,
        files: ModelFiles = FILES,
        *,
        created: int = 1,
        max_model_len: int = 100,
    ) -> None:
        engine, info = self.engines[number], described(files, created)
        info = msgspec.structs.replace(info, max_model_len=max_model_len)
        contents = files.contents
        engine.files = {file.digest: contents[file.name] for file in info.files}
        engine.start(info)

    async def ready(self) -> None:
        await until(lambda: self.model.not_ready_because() is None, "it is ready")

    @property
    def reads(self) -> int:
        return sum(engine.reads for engine in self.engines)


@pytest.fixture
def play(tmp_path):
    def run(scenario, *, engines=2, hold_s=0.0):
        async def main():
            async with asyncio.timeout(60):
                play = Play(tmp_path / "files", engines, hold_s)
                await scenario(play)
                play.model.engine.close()

        asyncio.run(main())

    return run


def test_its_files_are_read_once_for_all_engines(play):
    async def scenario(play):
        assert "starting" in play.model.not_ready_because()
        play.start(0)
        play.start(1)
        assert play.model.not_ready_because() == "the tokenizer is being loaded"
        await play.ready()
        assert play.reads == len(FILES.contents)
        assert play.model.text.tokenizer.encode("<|user|>hi") == [258, *b"hi"]

    play(scenario)


def test_a_context_that_an_engine_tells_while_files_are_read_counts(play):
    async def scenario(play):
        play.start(0)
        play.start(1, max_model_len=50)
        assert play.model.text is None
        await play.ready()
        assert play.model.text.info.max_model_len == 50

    play(scenario)


def test_an_engine_that_comes_back_with_the_same_files_finds_them_loaded(play):
    async def scenario(play):
        play.start(0)
        await play.ready()
        text = play.model.text
        play.engines[0].stop()
        assert play.model.not_ready_because()
        play.start(0, created=2)
        assert play.model.not_ready_because() is None
        assert play.model.text is text
        assert text.info.created == 2

    play(scenario, engines=1)


def test_other_files_are_loaded_anew(play):
    async def scenario(play):
        play.start(0)
        await play.ready()
        text = play.model.text
        play.engines[0].stop()
        contents = {**FILES.contents, "chat_template.jinja": b"another"}
        play.start(0, ModelFiles("m", contents))
        assert play.model.not_ready_because() == "the tokenizer is being loaded"
        await play.ready()
        assert play.model.text is not text
        assert play.model.text.template.render([]) == "another"
        # The tokenizer is the same, and was stored.
        assert play.reads == len(contents) + 1

    play(scenario, engines=1)


def test_an_engine_that_dies_while_they_are_read_is_replaced_by_another(play):
    async def scenario(play):
        play.start(0)
        play.start(1)
        await asyncio.sleep(0)
        play.engines[0].stop()
        await play.ready()
        assert play.model.problem is None
        assert play.engines[1].reads

    play(scenario)


def test_without_another_the_next_one_begins_again(play):
    async def scenario(play):
        play.start(0)
        await asyncio.sleep(0)
        play.engines[0].stop()
        await until(play.model._loading.done, "the reading ends")
        assert play.model.problem is None
        play.start(0)
        await play.ready()

    play(scenario, engines=1)


def test_files_that_can_not_be_used_are_a_problem_with_their_name(play):
    async def scenario(play):
        play.start(0, ModelFiles("m", {TOKENIZER: b"{"}))
        await until(lambda: play.model.problem, "the problem")
        assert "m/tokenizer.json" in play.model.problem
        assert play.model.not_ready_because() == play.model.problem
        # A repaired one is used.
        play.engines[0].stop()
        play.start(0)
        await play.ready()
        assert play.model.problem is None

    play(scenario, engines=1)


def test_a_replica_of_another_size_changes_nothing_but_the_description(play):
    async def scenario(play):
        play.start(0)
        await play.ready()
        text = play.model.text
        play.engines[1].files = play.engines[0].files
        play.engines[1].start(msgspec.structs.replace(described(FILES), kv_cache_tokens=9))
        assert play.model.text is text
        assert len(play.model.engine._usable) == 2

    play(scenario)


def test_requests_wait_for_an_engine_that_has_served(play):
    async def scenario(play):
        play.start(0)
        await play.ready()
        text = play.model.text
        play.engines[0].stop()
        assert play.model.not_ready_because()
        assert await play.model.wait_until_ready() is text

    play(scenario, engines=1, hold_s=60)


def test_without_holding_they_are_refused(play):
    async def scenario(play):
        play.start(0)
        await play.ready()
        play.engines[0].stop()
        with pytest.raises(EngineUnavailableError):
            await play.model.wait_until_ready()

    play(scenario, engines=1)


def test_an_engine_on_another_host_is_shown_as_its_handle_knows_it(play):
    async def scenario(play):
        here, there = play.engines
        there.endpoint = "tcp://10.0.0.2:5710"
        play.start(0)
        play.start(1)
        await play.ready()
        there.status = msgspec.structs.replace(there.status, draining=True)
        states = [(one.serves, one.engine.state) for one in play.model.replicas()]
        assert states[1] == (False, "draining")
        there.stop()
        unreached = play.model.replicas()[1]
        assert (unreached.serves, unreached.engine.state) == (False, "starting")
        assert "can't be reached" in unreached.engine.detail
        here.stop()
        assert "reached" not in play.model.replicas()[0].engine.detail

    play(scenario)
