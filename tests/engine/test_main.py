"""An engine that can't start says why, and whether it is worth another try."""

from pathlib import Path

import msgspec
import pytest

from tests.engine.fakes import MODEL
from vgate.config import Config, Runtime, local_engines
from vgate.config.schema import Server
from vgate.engine import main
from vgate.engine.backends.base import BackendError
from vgate.engine.memory import Memory
from vgate.wire.codec import decode_to_launcher
from vgate.wire.control import EngineFailed
from vgate.wire.sockets import Router


def test_a_block_of_the_kv_cache_is_left_out_of_what_is_admitted():
    model = msgspec.structs.replace(MODEL, kv_cache_tokens=512, kv_block_tokens=16)
    assert main._limits(Config(), model).kv_cache_tokens == 496


@pytest.fixture
def start(tmp_path_factory, monkeypatch):
    """Start an engine whose backend fails; return its exit status and what it told the launcher."""
    monkeypatch.setattr(main.logs, "configure", lambda *_, **__: None)

    run_dir = str(tmp_path_factory.mktemp("m"))
    config = Config(server=Server(state_dir=f"{run_dir}/state"))

    def run(failure: Exception) -> tuple[int, object]:
        def fail(*_):
            raise failure

        monkeypatch.setattr(main, "load_backend", fail)
        runtime = Runtime(
            config=config,
            backend="vllm",
            run_dir=run_dir,
            engines=local_engines(config, run_dir),
        )
        lives = Path(runtime.directory("engines"))
        lives.mkdir(exist_ok=True)
        launcher = Router(runtime.endpoint("control"))
        try:
            status = main.run(runtime, 0)
            # What is left there stands for an engine that was killed.
            assert not [*lives.iterdir()]
            while (received := launcher.receive()) is None:
                launcher.wait(0.1)
            return status, decode_to_launcher(received[1])
        finally:
            launcher.close()

    return run


@pytest.mark.parametrize(
    ("failure", "status", "reason", "permanent"),
    [
        (BackendError("no model"), main.EXIT_PERMANENT, "no model", True),
        (BackendError("no memory", permanent=False), main.EXIT_CRASHED, "no memory", False),
        (RuntimeError("a bug"), main.EXIT_CRASHED, "RuntimeError: a bug", False),
    ],
)
def test_a_backend_that_cannot_start(start, failure, status, reason, permanent):
    code, told = start(failure)
    assert code == status
    assert isinstance(told, EngineFailed)
    assert (told.reason, told.permanent) == (reason, permanent)


@pytest.mark.parametrize(
    "failure",
    [
        BackendError("the GPU is full: 98 MiB of 8 GiB are free.", permanent=False, lacks="memory"),
        BackendError("there is no room for the KV cache.", lacks="room"),
        MemoryError("cannot allocate 5 GiB"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 5 bytes"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_a_lack_of_memory_is_tried_smaller_twice_and_ends_in_a_sentence(start, failure, caplog):
    found = [start(failure) for _ in range(3)]
    assert [code for code, _ in found] == [main.EXIT_CRASHED] * 2 + [main.EXIT_PERMANENT]
    *tried, last = [told for _, told in found]
    for number, told in enumerate(tried, start=1):
        assert told.reason.endswith(f"It starts again smaller ({number} of 2).")
        assert (told.permanent, told.tells) == (False, True)
    assert last.reason == f"{tried[0].reason.split(' It starts')[0]} Smaller starts failed, too."
    assert (last.permanent, last.tells) == (True, False)
    assert str(failure).rstrip(".") in last.reason
    assert "Traceback" not in caplog.text


def test_starts_that_the_kernel_kills_end_in_a_sentence(start, monkeypatch):
    monkeypatch.setattr(main, "Memory", lambda *given: _hopeless(Memory(*given)))
    code, told = start(AssertionError("it is not loaded"))
    assert (code, told.permanent) == (main.EXIT_PERMANENT, True)
    assert "the kernel killed each start" in told.reason
    assert "GiB are available" in told.reason


def _hopeless(memory: Memory) -> Memory:
    memory.hopeless = True
    return memory
