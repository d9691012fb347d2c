"""An engine that ran out of memory comes back with less, at most twice, and remembers it."""

import json
from pathlib import Path

import pytest

from vgate.config import Config, Runtime, local_engines
from vgate.config.schema import Batch, Model, Server
from vgate.engine import memory
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
    share = round(config.model.gpu_memory_utilization, 3)
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


def test_an_automatic_batch_is_reduced_from_the_usual_one(machine):
    machine.start(size="auto").ran_out("x")
    assert shape(machine.start(size="auto"))[0] == 128


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
        (caused(RuntimeError("step failed"), MemoryError()), True),
        (RuntimeError("boom"), False),
        (caused(RuntimeError("a"), ValueError("b")), False),
    ],
)
def test_what_a_lack_of_memory_is(error, expected):
    assert is_out_of_memory(error) is expected


def test_a_lack_of_memory_at_the_start_is_not_permanent():
    assert not is_permanent(OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."))
    assert not is_permanent(MemoryError("Unable to allocate 3 GiB, out of memory"))
    assert is_permanent(ValueError("boom"))


def test_the_kernel_s_counts_can_be_read(tmp_path):
    assert memory._kills() >= 0
    path = tmp_path / "memory.events"
    path.write_text("low 0\noom 5\noom_kill 2\noom_group_kill 7\n")
    assert memory._count(path) == 2
