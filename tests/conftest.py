"""Fixtures that several suites share."""

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import httpx._config
import httpx._transports.default
import pytest

from tests.e2e.instance import Instance
from tests.tiny_model import make_tiny_model

TESTS = Path(__file__).parent
# What the Python version can't change: clients over HTTP, what isn't the package, pure functions
# that many generated texts try, and long runs.
ONCE = (
    "bench",
    "commands/test_bench.py",
    "commands/test_completion.py",
    "commands/test_fit.py",
    "commands/test_models.py",
    "commands/test_service.py",
    "commands/test_update.py",
    "config/models/test_catalogue.py",
    "deploy",
    "e2e",
    "engine/test_admission.py",
    "fit",
    "frontend/apis/test_bounds.py",
    "frontend/access/test_shared",
    "frontend/cache/test_second_level.py",
    "frontend/parsing/test_cutting.py",
    "frontend/parsing/test_streaming.py",
    "frontend/pipeline/test_normalise.py",
    "frontend/shared_state",
    "frontend/test_long_requests.py",
    "frontend/text/test_piece_encoder.py",
    "frontend/text/test_slices.py",
    "hub",
    "launcher/test_proposal.py",
    "sdk",
    "test_docs.py",
    "test_lanes.py",
    "test_state_link.py",
    "test_structure.py",
)
# But these start, serve, fail and stop real processes, each in its own way.
WITH_EACH_PYTHON = (
    "e2e/test_chat.py",
    "e2e/test_endpoints.py",
    "e2e/test_gateway.py",
    "e2e/test_shutdown.py",
    "e2e/test_start.py",
    "e2e/test_wire.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that one Python version is enough for."""
    for item in items:
        path = item.path.relative_to(TESTS).as_posix()
        if path.startswith(ONCE) and not path.startswith(WITH_EACH_PYTHON):
            item.add_marker("once")


@pytest.fixture(scope="session", autouse=True)
def trusted_once() -> Iterator[None]:
    """Read the machine's certificates once, which takes each client of httpx 35 ms of CPU."""
    with pytest.MonkeyPatch.context() as patch:
        make = cache(httpx._config.create_ssl_context)
        patch.setattr(httpx._transports.default, "create_ssl_context", make)
        yield


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2 model with random weights and a trained tokenizer."""
    return make_tiny_model(tmp_path_factory.mktemp("tiny-model"))


@pytest.fixture(scope="session")
def run_dirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A short directory for run directories: socket paths are limited to 107 bytes."""
    return tmp_path_factory.mktemp("run", numbered=True)


@pytest.fixture(scope="module")
def dry_run(run_dirs: Path) -> Iterator[Instance]:
    """A V-Gate instance on the dry-run engine with two frontend workers, for a whole module."""
    with Instance(
        run_dirs,
        dry_run=True,
        server__workers=2,
        batch__max_num_seqs=64,
        dry_run__step_ms=2,
    ) as instance:
        yield instance
