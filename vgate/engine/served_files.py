"""The files of its model that an engine describes and serves to frontends, a chunk at a time."""

import hashlib
import re
import time
from pathlib import Path
from typing import Any

from vgate.config import Config
from vgate.engine.backends.base import BackendError
from vgate.wire.messages import FetchFile, FileChunk, ModelInfo
from vgate.wire.model_files import NAMES, FileInfo, ModelFiles

# Sending this much takes a fraction of a millisecond, between two steps. Chunks of a mebibyte leave
# 1.7 MiB more with the allocator of each frontend, whose I/O thread keeps what it freed.
CHUNK_BYTES = 256 * 1024

# How a cache of the Hub names a file's content: a Git object id or a SHA-256.
_CONTENT_NAME = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")


def describe_model(config: Config, files: ModelFiles, **facts: Any) -> ModelInfo:
    """Return the description of a loaded model; `facts` are the fields that its backend knows."""
    return ModelInfo(
        names=config.model.served_names,
        files=describe(files),
        created=int(time.time()),
        task=config.model.task,
        **facts,
    )


def read_model_files(directory: Path) -> ModelFiles:
    """Read a model's text files; missing ones are left out."""
    paths = {name: directory / name for name in NAMES}
    try:
        contents = {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
    except OSError as error:
        raise BackendError(f"cannot read the model's files: {error}") from error
    return ModelFiles(str(directory), contents)


def describe(files: ModelFiles) -> list[FileInfo]:
    """Return the description of files that frontends get at hello."""
    return [
        FileInfo(name, hashlib.sha256(content).digest(), len(content))
        for name, content in sorted(files.contents.items())
    ]


def fingerprint(directory: Path) -> str:
    """Return a text that changes whenever one of a model's files does, its weights included.

    It is made of names, sizes and modification times, since reading the weights would take too
    long; for links into a cache of the Hub, of the names of their targets.
    """
    entries = [_entry(path) for path in sorted(directory.iterdir()) if path.is_file()]
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()


def _entry(path: Path) -> str:
    if path.is_symlink() and _CONTENT_NAME.fullmatch(target := path.readlink().name):
        return f"{path.name} {target}"
    status = path.stat()
    return f"{path.name} {status.st_size} {status.st_mtime_ns}"


class FileServer:
    """Answers `FetchFile`, with at most one chunk between two steps.

    `wanted` has the chunk that each peer waits for; a peer asks for one at a time.
    """

    def __init__(self, files: ModelFiles, described: list[FileInfo]) -> None:
        self._contents = {file.digest: files.contents[file.name] for file in described}
        self.wanted: dict[bytes, FetchFile] = {}

    def next_chunk(self) -> tuple[bytes, FileChunk]:
        """Remove the chunk that was asked for first; return its peer and it.

        It is empty at the end of the file and for an unknown digest.
        """
        peer = next(iter(self.wanted))
        message = self.wanted.pop(peer)
        content = self._contents.get(message.digest, b"")
        data = content[message.offset : message.offset + CHUNK_BYTES]
        return peer, FileChunk(message.digest, message.offset, data)
