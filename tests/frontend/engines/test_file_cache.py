"""Model files on disk: each comes from an engine once, and damage is noticed."""

import asyncio
import hashlib
import os
import stat
from pathlib import Path

import pytest

from tests.frontend.gateway import until
from vgate.errors import EngineUnavailableError
from vgate.frontend.engines.file_cache import FileCacheError, load_files
from vgate.wire.model_files import FileInfo

CHUNK = 1000


class Source:
    """An engine's side.

    Attributes:
        reads: Offsets that were asked for.
    """

    def __init__(self, **contents: bytes) -> None:
        self.contents = contents
        self.reads: list[int] = []
        self.files = [
            FileInfo(name, hashlib.sha256(content).digest(), len(content))
            for name, content in contents.items()
        ]
        self.pause: asyncio.Event | None = None

    async def read(self, digest: bytes, offset: int) -> bytes:
        self.reads.append(offset)
        if self.pause is not None:
            await self.pause.wait()
        (content,) = [self.contents[f.name] for f in self.files if f.digest == digest]
        return content[offset : offset + CHUNK]


def load(directory: Path, source: Source) -> dict[str, bytes]:
    async def main() -> dict[str, bytes]:
        files = await load_files(directory, "m", source.files, source.read)
        assert files.origin == "m"
        return files.contents

    return asyncio.run(main())


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "files"


def test_they_are_read_once_and_only_their_user_can_read_them(directory):
    source = Source(small=b"x", large=os.urandom(3 * CHUNK + 1), empty=b"")
    for _ in range(2):
        # As a worker that was restarted.
        assert load(directory, source) == source.contents
    assert sorted(source.reads) == [0, 0, CHUNK, 2 * CHUNK, 3 * CHUNK]
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}


def test_the_same_content_under_another_name_is_not_read_again(directory):
    load(directory, Source(a=b"same"))
    again = Source(b=b"same")
    assert load(directory, again) == {"b": b"same"}
    assert not again.reads


def test_several_workers_have_the_engine_send_it_once(directory):
    source = Source(large=os.urandom(5 * CHUNK))

    async def main():
        source.pause = asyncio.Event()
        loads = [
            asyncio.create_task(load_files(directory, "m", source.files, source.read))
            for _ in range(4)
        ]
        await until(lambda: source.reads, "one of them reads")
        await asyncio.sleep(0.05)
        source.pause.set()
        return await asyncio.gather(*loads)

    assert all(files.contents == source.contents for files in asyncio.run(main()))
    assert len(source.reads) == 5


def test_the_next_one_reads_it_if_the_first_is_cut_off(directory):
    source = Source(large=os.urandom(3 * CHUNK))

    async def fails(digest: bytes, offset: int) -> bytes:
        if offset:
            raise EngineUnavailableError("gone")
        return await source.read(digest, offset)

    async def main():
        with pytest.raises(EngineUnavailableError):
            await load_files(directory, "m", source.files, fails)
        waiting = load_files(directory, "m", source.files, source.read)
        return (await asyncio.wait_for(waiting, 20)).contents

    assert asyncio.run(main()) == source.contents
    assert source.reads == [0, 0, CHUNK, 2 * CHUNK]


@pytest.mark.parametrize("damage", [b"", b"other"])
def test_a_damaged_one_is_read_again(directory, damage):
    source = Source(a=b"right")
    load(directory, source)
    (path,) = [path for path in directory.iterdir() if not path.suffix]
    path.write_bytes(damage)
    assert load(directory, source) == source.contents
    assert len(source.reads) == 2


def test_what_is_not_as_described_is_refused(directory):
    source = Source(a=b"right")
    source.contents["a"] = b"wrong"
    with pytest.raises(FileCacheError, match="another a than"):
        load(directory, source)
    source.contents["a"] = b""
    with pytest.raises(FileCacheError, match="another a than"):
        load(directory, source)


def test_a_disk_that_takes_nothing_is_an_error_with_its_name(directory, monkeypatch):
    def full(*_arguments, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.open", full)
    with pytest.raises(FileCacheError, match=f"of m in {directory}: No space left"):
        load(directory, Source(a=b"x"))
