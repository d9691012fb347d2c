"""The files that an engine serves, and how little its steps notice of it."""

import hashlib
import os
from pathlib import Path

import pytest

from tests.engine.fakes import MODEL, Bench, generate
from vgate.config.models import reading
from vgate.engine.backends.base import BackendError
from vgate.engine.loop import EngineLoop
from vgate.engine.served_files import (
    CHUNK_BYTES,
    FileServer,
    describe,
    fingerprint,
    read_model_files,
)
from vgate.wire.messages import FetchFile, FileChunk, Goodbye, Step
from vgate.wire.model_files import ModelFiles

CONTENT = os.urandom(2 * CHUNK_BYTES + 5)
DIGEST = hashlib.sha256(CONTENT).digest()


def serving() -> Bench:
    """Return a loop whose backend has a file, and two frontends."""
    bench = Bench()
    bench.backend.files = ModelFiles("m", {"tokenizer.json": CONTENT})
    described = describe(bench.backend.files)
    bench.loop._files = FileServer(bench.backend.files, described)
    assert isinstance(bench.loop, EngineLoop)
    bench.welcome(b"a", b"b")
    return bench


class TestReading:
    def test_a_directory(self, tmp_path):
        (tmp_path / "tokenizer.json").write_bytes(b"{}")
        (tmp_path / "model.safetensors").write_bytes(b"weights")
        assert read_model_files(tmp_path).contents == {"tokenizer.json": b"{}"}

    def test_one_that_cannot_be_read_ends_the_engine_with_its_name(self, tmp_path, monkeypatch):
        def fail(path, _mode):
            raise PermissionError(13, "Permission denied", str(path))

        (tmp_path / "tokenizer.json").write_bytes(b"{}")
        monkeypatch.setattr(Path, "open", fail)
        with pytest.raises(BackendError, match=r"tokenizer\.json"):
            read_model_files(tmp_path)

    def test_one_that_is_larger_than_any_models_is_not_read(self, tmp_path, monkeypatch):
        (tmp_path / "tokenizer.json").write_bytes(b"{}" * 100)
        monkeypatch.setattr(reading, "MOST_BYTES", 199)
        with pytest.raises(BackendError, match=r"tokenizer\.json has more than"):
            read_model_files(tmp_path)


class TestDescribe:
    def test_each_file_has_its_digest_and_size(self):
        files = ModelFiles("m", {"b": b"", "a": b"text"})
        first, second = describe(files)
        assert (first.name, first.size) == ("a", 4)
        assert first.digest == hashlib.sha256(b"text").digest()
        assert (second.name, second.size) == ("b", 0)


class TestFingerprint:
    def test_it_changes_with_any_file(self, tmp_path):
        weights = tmp_path / "model.safetensors"
        weights.write_bytes(b"one")
        before = fingerprint(tmp_path)
        weights.write_bytes(b"two")
        other = fingerprint(tmp_path)
        (tmp_path / "config.json").write_text("{}")
        assert len({before, other, fingerprint(tmp_path)}) == 3

    def test_it_changes_with_the_weights_of_a_large_file(self, tmp_path):
        weights = tmp_path / "model.safetensors"
        found = []
        for fill in (b"a", b"b"):
            weights.write_bytes(fill * (5 << 20))
            found.append(fingerprint(tmp_path))
        weights.write_bytes(b"b" * (5 << 20) + b"c")
        found.append(fingerprint(tmp_path))
        with weights.open("r+b") as file:
            file.seek(-1, os.SEEK_END)
            file.write(b"d")
        assert len({*found, fingerprint(tmp_path)}) == 4

    def test_it_is_the_same_on_another_host(self, tmp_path):
        cached, copied = tmp_path / "cached", tmp_path / "copied"
        for folder in (cached, copied):
            folder.mkdir()
        (tmp_path / ("a" * 64)).write_bytes(b"weights")
        (cached / "model.safetensors").symlink_to(tmp_path / ("a" * 64))
        (copied / "model.safetensors").write_bytes(b"weights")
        os.utime(copied / "model.safetensors", ns=(0, 1))
        assert fingerprint(cached) == fingerprint(copied)


class TestServing:
    def test_it_comes_in_chunks(self):
        bench, content = serving(), b""
        for offset in (0, CHUNK_BYTES, 2 * CHUNK_BYTES, len(CONTENT)):
            bench.say(b"a", FetchFile(DIGEST, offset))
            bench.turn()
            chunk = bench.heard(b"a", FileChunk)[-1]
            assert (chunk.digest, chunk.offset) == (DIGEST, offset)
            content += chunk.data
        assert chunk.data == b""
        assert content == CONTENT

    def test_an_unknown_one_is_empty(self):
        bench = serving()
        bench.say(b"a", FetchFile(b"?", 0), FetchFile(DIGEST, 2**50))
        bench.say(b"b", FetchFile(b"?", 0))
        bench.turn(3)
        assert [chunk.data for chunk in bench.heard(b"b", FileChunk)] == [b""]
        assert [chunk.data for chunk in bench.heard(b"a", FileChunk)] == [b""]

    def test_one_chunk_between_two_steps_and_none_is_held_up(self):
        bench = serving()
        bench.say(b"a", generate(1, max_tokens=20))
        bench.turn(2)
        bench.transport.sent.clear()
        for peer in (b"a", b"b"):
            bench.say(peer, FetchFile(DIGEST, 0))
        bench.turn(2)
        kinds = [type(message) for _, message in bench.transport.sent]
        assert kinds == [Step, FileChunk, Step, FileChunk]

    def test_an_idle_engine_does_not_wait_while_one_is_wanted(self):
        bench = serving()
        for peer in (b"a", b"b"):
            bench.say(peer, FetchFile(DIGEST, 0))
        bench.turn()
        waits = len(bench.transport.waits)
        bench.turn()
        assert len(bench.transport.waits) == waits
        bench.turn()
        assert len(bench.transport.waits) == waits + 1

    def test_a_frontend_that_leaves_wants_none(self):
        bench = serving()
        bench.say(b"a", FetchFile(DIGEST, 0), Goodbye())
        bench.turn(2)
        assert not bench.heard(b"a", FileChunk)

    def test_without_files_nothing_is_served(self):
        assert FileServer(ModelFiles("m", {}), MODEL.files).wanted == {}
