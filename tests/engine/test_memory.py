"""An engine that ran out of memory comes back with less, at most twice, and remembers it."""

import json
from pathlib import Path

import msgspec
import pytest

from vgate.config import Config, Runtime, local_engines
from vgate.config.model import AdditionalModel, Model
from vgate.config.schema import Batch, Server
from vgate.engine import memory
from vgate.engine.backends.base import WorkerDiedError
from vgate.engine.backends.vllm.failures import is_permanent
from vgate.engine.memory import Memory, is_out_of_memory


class Machine:
    """What an engine finds: directories, GPUs, and what the kernel has killed."""

    def __init__(self, directory: Path, monkeypatch) -> None:
        self.directory = directory
        self.gpus = directory / "gpus"
        self.kills = 3
        monkeypatch.setattr(memory, "_GPUS", self.gpus)
        monkeypatch.setattr(memory, "_kills", lambda: self.kills)
        (directory / "run" / "engines").mkdir(parents=True)

    def insert(self, card: str) -> None:
        path = self.gpus / "0000:01:00.0" / "information"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Model: \t\t {card}\nIRQ:   \t\t 35\n")

    def start(self, model=None, size=8, **server) -> Memory:
        server.setdefault("state_dir", str(self.directory / "state"))
        config = Config(
            model=model or Model(model_id="m", gpu_memory_utilization=0.8),
            batch=Batch(max_num_seqs=size),
            server=Server(**server),
        )
        run_dir = str(self.directory / "run")
        engines = local_engines(config, run_dir)
        runtime = Runtime(config=config, backend="x", run_dir=run_dir, engines=engines)
        return Memory(runtime, 0)


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


def shape(learned: Memory) -> tuple[int, float, dict]:
    config = learned.config
    share = config.model.gpu_memory_utilization
    share = share if share == "auto" else round(share, 3)
    return config.batch.max_num_seqs, share, config.model.engine_args


def test_an_engine_that_never_ran_out_is_as_configured(machine):
    first = machine.start()
    assert (shape(first), first.summary) == ((8, 0.8, {}), "")
    first.end()
    assert not (machine.directory / "state").exists()


def test_each_lack_of_memory_reduces_it_and_a_third_one_no_more(machine):
    machine.insert("NVIDIA GeForce RTX 3060")
    shapes = []
    for _ in range(4):
        started = machine.start()
        shapes.append(shape(started))
        started.ran_out("CUDA out of memory")
        started.end()
    tokens = "max_num_batched_tokens"
    assert shapes[0] == (8, 0.8, {})
    assert shapes[1] == (4, 0.72, {tokens: 1024})
    assert shapes[2] == shapes[3] == (2, 0.648, {tokens: 512})
    started = machine.start()
    assert "reduced twice" in started.summary
    (path,) = (machine.directory / "state" / "memory").iterdir()
    assert str(path) in started.summary
    kept = json.loads(path.read_text())
    assert (kept["card"], kept["model"]) == ("NVIDIA GeForce RTX 3060", "m")
    assert (kept["reductions"], kept["reason"]) == (2, "CUDA out of memory")
    path.unlink()
    assert shape(machine.start()) == shapes[0]


def test_what_is_automatic_is_reduced_by_the_backend_that_chooses_it(machine):
    automatic = Model(model_id="m")
    assert machine.start(automatic, size="auto").allowance == (1.0, 0)
    machine.start(automatic, size="auto").ran_out("x")
    reduced = machine.start(automatic, size="auto")
    assert shape(reduced)[:2] == ("auto", "auto")
    assert reduced.allowance == (pytest.approx(0.9), 1)


def test_a_start_that_lacks_memory_is_tried_smaller_twice_and_then_as_it_was(machine):
    found = []
    for _ in range(3):
        started = machine.start()
        found.append((started.tries_less("memory", "CUDA out of memory"), shape(started)[:2]))
    assert found == [(True, (8, 0.8)), (True, (4, 0.72)), (False, (2, 0.648))]
    # None of them worked, so nothing is remembered.
    assert shape(machine.start()) == (8, 0.8, {})


def test_a_start_that_works_smaller_is_remembered(machine):
    machine.start().tries_less("memory", "CUDA out of memory")
    machine.start().serves("context 4,096")
    (path,) = (machine.directory / "state" / "memory").iterdir()
    kept = json.loads(path.read_text())
    assert (kept["reductions"], kept["tries"], kept["works"]) == (1, 0, "context 4,096")
    again = machine.start()
    assert shape(again)[:2] == (4, 0.72)
    assert "reduced once (batch.max_num_seqs 4 instead of 8, model.gpu_m" in again.summary
    assert "utilization 0.72 instead of 0.8) because it ran out" in again.summary
    # And it has two tries more, of which there is one left.
    assert again.tries_less("memory", "x")
    assert not machine.start().tries_less("memory", "x")
    assert shape(machine.start())[:2] == (4, 0.72)


def test_a_cache_without_room_keeps_the_share_of_the_memory(machine):
    machine.start().tries_less("room", "No available memory for the cache blocks")
    assert shape(machine.start())[:2] == (4, 0.8)
    machine.start().tries_less("memory", "CUDA out of memory")
    assert shape(machine.start())[:2] == (2, 0.72)


def test_what_is_no_lack_of_memory_is_not_tried_smaller(machine):
    assert not machine.start().tries_less("", "config.json is broken")
    assert not (machine.directory / "state").exists()


def test_a_start_that_the_kernel_kills_is_tried_smaller_until_that_is_hopeless(machine):
    machine.start()
    found = []
    for _ in range(3):
        machine.kills += 1
        started = machine.start()
        found.append((started.hopeless, started.config.batch.max_num_seqs))
        assert started.killed
    assert found == [(False, 4), (False, 2), (True, 8)]


def test_another_driver_or_version_learns_anew(machine, tmp_path, monkeypatch):
    machine.start().ran_out("x")
    monkeypatch.setattr(memory, "_version", lambda name: f"{name} 9")
    assert machine.start().learned.reductions == 0
    machine.start().ran_out("x")
    (tmp_path / "driver").write_text("NVRM version: 999.1")
    monkeypatch.setattr(memory, "_DRIVER", tmp_path / "driver")
    assert machine.start().learned.reductions == 0


def test_settings_of_the_card_are_learned_anew(machine):
    machine.start(Model(model_id="m")).ran_out("x")
    assert machine.start(Model(model_id="m")).learned.reductions == 1
    for changed in ({"cuda_graphs": "none"}, {"weights_offload_gib": 2}, {"speculation": "mtp"}):
        assert machine.start(Model(model_id="m", **changed)).learned.reductions == 0, changed


@pytest.mark.parametrize(
    ("others", "share"),
    [
        ([], 1.0),
        ([{}], 0.5),
        ([{"gpu_memory_utilization": 0.3}], 0.7),
        ([{"gpu_memory_utilization": 0.3}, {}], 0.35),
        ([{"memory_bytes": 2**30}], 1.0),
        ([{"gpu_memory_utilization": 1.0}], 0.05),
    ],
)
def test_models_on_one_gpu_share_it(machine, others, share):
    more = [
        AdditionalModel(model_id=f"other-{number}", task="embed", **settings)
        for number, settings in enumerate(others)
    ]
    config = Config(model=Model(model_id="m"), additional_models=more)
    engines = local_engines(config, str(machine.directory / "run"))
    runtime = Runtime(config=config, backend="x", run_dir=str(machine.directory), engines=engines)
    assert Memory(runtime, 0).allowance.share == pytest.approx(share)
    apart = [
        msgspec.structs.replace(engine, environment={"CUDA_VISIBLE_DEVICES": str(number)})
        for number, engine in enumerate(engines)
    ]
    runtime = msgspec.structs.replace(runtime, engines=apart)
    assert Memory(runtime, 0).allowance.share == 1


def test_what_the_operator_chose_is_reduced(machine):
    machine.insert("A")
    given = {"max_num_batched_tokens": 8192, "kv_cache_memory_bytes": 1000, "enforce_eager": True}
    for task, expected in (("generate", 4096), ("embed", 8192)):
        model = Model(model_id=task, task=task, engine_args=given)
        machine.start(model).ran_out("x")
        _, _, arguments = shape(machine.start(model))
        assert arguments["max_num_batched_tokens"] == expected
        assert (arguments["kv_cache_memory_bytes"], arguments["enforce_eager"]) == (900, True)
    whole = Model(model_id="m", engine_args={"enable_chunked_prefill": False})
    machine.start(whole).ran_out("x")
    assert shape(machine.start(whole))[2] == whole.engine_args


def test_without_a_gpu_prompts_are_not_read_in_chunks(machine):
    machine.start().ran_out("x")
    assert shape(machine.start()) == (4, 0.72, {})


def test_another_card_model_or_setting_learns_anew(machine):
    machine.start().ran_out("x")
    assert machine.start().learned.reductions == 1
    assert machine.start(size=4).learned.reductions == 0
    assert machine.start(Model(model_id="n")).learned.reductions == 0
    more = Model(model_id="m", gpu_memory_utilization=0.8, tensor_parallel_size=2)
    assert machine.start(more).learned.reductions == 0
    machine.insert("A")
    assert machine.start().learned.reductions == 0


def test_the_kernel_s_kill_is_one_and_other_deaths_are_not(machine):
    machine.start()
    # It was killed, but not for lack of memory.
    machine.start()
    machine.kills += 1
    killed = machine.start()
    assert (killed.learned.reductions, killed.config.batch.max_num_seqs) == (1, 4)
    assert "kernel" in killed.learned.reason
    killed.end()
    # Another process was killed while no engine ran.
    machine.kills += 1
    assert machine.start().learned.reductions == 1


def test_a_reduction_that_does_not_start_is_taken_back_for_good(machine):
    machine.start().ran_out("x")
    machine.start().ran_out("x")
    assert machine.start().take_back()
    assert machine.start().learned.reductions == 1
    machine.start().ran_out("again")
    assert machine.start().learned.reductions == 1
    assert machine.start().take_back()
    assert not machine.start().take_back()
    assert shape(machine.start()) == (8, 0.8, {})


@pytest.mark.parametrize(
    ("content", "reductions"),
    [
        (b'{"card":"c","model":"m","reductions":-1}', 0),
        (b'{"card":"c","model":"m","reductions":1000000000000000000000}', 0),
        (b'{"card":"c","model":"m","reductions":1,"starved":2}', 1),
        (b"\xff", 0),
        (b"[" * 100_000, 0),
        (b"", 0),
    ],
)
def test_a_file_that_nobody_has_written_so_is_not_believed(machine, content, reductions):
    machine.start().ran_out("CUDA out of memory")
    (path,) = (machine.directory / "state" / "memory").iterdir()
    path.write_bytes(content)
    found = machine.start()
    assert found.learned.reductions == reductions
    assert found.config.model.gpu_memory_utilization <= 0.8
    assert found.allowance.share <= 1


def test_what_can_not_be_remembered_is_said(machine, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    machine.start(state_dir=str(tmp_path / "file" / "below")).ran_out("x")
    assert "server.state_dir" in caplog.text
    broken = machine.start()
    broken.ran_out("x")
    (path,) = (tmp_path / "state" / "memory").iterdir()
    path.write_text("{")
    assert machine.start().learned.reductions == 0


class OutOfMemoryError(RuntimeError):
    """As torch's."""


def caused(error, by):
    error.__cause__ = by
    return error


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("Worker failed with error 'CUDA out of memory'"), True),
        (
            RuntimeError("Worker failed with error 'CPUAllocator: can't allocate memory'"),
            True,
        ),
        (caused(RuntimeError("step failed"), MemoryError()), True),
        (RuntimeError("boom"), False),
        (caused(RuntimeError("a"), ValueError("b")), False),
    ],
)
def test_what_a_lack_of_memory_is(error, expected):
    assert is_out_of_memory(error) is expected


def test_a_worker_that_the_kernel_killed_had_no_memory(machine):
    died = WorkerDiedError("a worker process died")
    first = machine.start()
    assert not first.explains(died)
    machine.kills += 1
    # Any other crash has its own reason.
    assert not first.explains(ValueError("boom"))
    assert first.explains(died)
    first.end()
    assert machine.start().learned.reductions == 1


def test_a_lack_of_memory_at_the_start_is_not_permanent():
    assert not is_permanent(OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert not is_permanent(MemoryError("Unable to allocate 3 GiB, out of memory"))
    assert is_permanent(ValueError("boom"))


def test_the_kernel_s_counts_can_be_read(tmp_path):
    assert memory._kills() >= 0
    path = tmp_path / "memory.events"
    path.write_text("low 0\noom 5\noom_kill 2\noom_group_kill 7\n")
    assert memory._count(path) == 2
