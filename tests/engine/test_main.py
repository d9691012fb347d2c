"""An engine that can't start says why, and whether it is worth another try."""

from pathlib import Path

import pytest

from vgate.config import Config, Runtime, local_engines
from vgate.engine import main
from vgate.engine.backends.base import BackendError
from vgate.wire.codec import decode_to_launcher
from vgate.wire.control import EngineFailed
from vgate.wire.sockets import Router


@pytest.fixture
def start(tmp_path_factory, monkeypatch):
    """Start an engine whose backend fails; return its exit status and what it told the launcher."""
    monkeypatch.setattr(main.logs, "configure", lambda *_, **__: None)

    def run(failure: Exception) -> tuple[int, object]:
        def fail(*_):
            raise failure

        monkeypatch.setattr(main, "load_backend", fail)
        run_dir = str(tmp_path_factory.mktemp("m"))
        runtime = Runtime(
            config=Config(),
            backend="vllm",
            run_dir=run_dir,
            engines=local_engines(Config(), run_dir),
        )
        lives = Path(runtime.directory("engines"))
        lives.mkdir()
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
