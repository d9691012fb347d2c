"""What the vLLM backend does before vLLM is imported; runs without vLLM."""

import gc
import os
import sys
from importlib import invalidate_caches
from pathlib import Path

import pytest

from vgate.engine.backends.vllm.environment import keep_bytecode, uncollected


def test_an_import_leaves_nothing_to_the_collector() -> None:
    runs: list[str] = []

    def count(phase: str, _: dict[str, int]) -> None:
        runs.append(phase)

    gc.callbacks.append(count)
    try:
        with uncollected():
            made = [[] for _ in range(20_000)]
        assert not runs
        assert gc.isenabled()
        found = {id(each) for each in gc.get_objects()}
        assert found.isdisjoint(map(id, made)), "looked through again"
        assert gc.get_freeze_count() >= len(made)
    finally:
        gc.callbacks.remove(count)
        gc.unfreeze()


def test_it_is_enabled_again_after_a_failure() -> None:
    with pytest.raises(ImportError), uncollected():
        import no_such_module  # noqa: F401
    assert gc.isenabled()
    assert "no_such_module" not in sys.modules
    gc.unfreeze()


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package that nothing has compiled yet, in a directory that can't be written to."""
    folder = tmp_path / "site" / "some_package"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(folder.parent))
    monkeypatch.setattr(sys, "pycache_prefix", None)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    real = os.access

    def access(path, mode):
        return (mode != os.W_OK or Path(path) != folder) and real(path, mode)

    monkeypatch.setattr(os, "access", access)
    invalidate_caches()
    yield folder
    sys.modules.pop("some_package", None)


def test_compiled_modules_are_kept_elsewhere(package, tmp_path):
    keep_bytecode("some_package", tmp_path / "kept")
    __import__("some_package")
    assert [*(tmp_path / "kept").rglob("*.pyc")]
    assert not [*package.rglob("*.pyc")]


def test_those_that_are_there_are_used(package, tmp_path):
    (package / "__pycache__").mkdir()
    (package / "__pycache__" / f"__init__.{sys.implementation.cache_tag}.pyc").touch()
    keep_bytecode("some_package", tmp_path / "kept")
    assert sys.pycache_prefix is None


def test_nothing_changes_where_they_can_be_written(package, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: True)
    keep_bytecode("some_package", tmp_path / "kept")
    keep_bytecode("no_such_package", tmp_path / "kept")
    assert sys.pycache_prefix is None
