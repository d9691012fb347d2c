"""Fixtures that several suites share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.instance import Instance
from tests.tiny_model import make_tiny_model

TESTS = Path(__file__).parent
# What the Python version can't change: clients over HTTP, what isn't the package, and long runs.
ONCE = (
    "bench",
    "deploy",
    "e2e",
    "frontend/apis/test_bounds.py",
    "frontend/text/test_slices.py",
    "sdk",
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
