"""Weights are read while vLLM is imported, if there is memory for them."""

import mmap
import os
from pathlib import Path

import pytest

from vgate.engine.backends import read_ahead
from vgate.engine.backends.read_ahead import read_ahead as begin

SIZE = 9 << 20


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    for name in ("a.safetensors", "b.safetensors", "notes.txt"):
        (tmp_path / name).write_bytes(bytes(SIZE))
    return tmp_path


def test_the_weights_are_read_and_nothing_else(weights, monkeypatch):
    read: dict[str, int] = {}
    real = Path.open

    def watched(path, *args, **options):
        file = real(path, *args, **options)
        if path.parent == weights:
            read[path.name] = os.fstat(file.fileno()).st_size
        return file

    monkeypatch.setattr(Path, "open", watched)
    begin(weights).join(60)
    assert read == {"a.safetensors": SIZE, "b.safetensors": SIZE}


def test_not_where_memory_is_short(weights, monkeypatch):
    monkeypatch.setattr(read_ahead, "host_memory", lambda: 4 * SIZE - 1)
    assert begin(weights) is None
    monkeypatch.setattr(read_ahead, "host_memory", lambda: 4 * SIZE)
    thread = begin(weights)
    assert thread is not None
    thread.join(60)


def test_what_can_not_be_read_is_left_to_its_reader(tmp_path):
    assert begin(None) is None
    assert begin(tmp_path) is None
    (tmp_path / "gone.safetensors").symlink_to(tmp_path / "nowhere")
    assert begin(tmp_path) is None
    (tmp_path / "gone.safetensors").unlink()
    (tmp_path / "folder.safetensors").mkdir()
    (tmp_path / "real.safetensors").write_bytes(bytes(mmap.PAGESIZE))
    begin(tmp_path).join(60)
