"""The files of its model that an engine describes and serves to frontends, a chunk at a time."""

import hashlib
import os
import time
from pathlib import Path
from typing import Any

from vgate.config import Config
from vgate.config.models.reading import content_of
from vgate.config.models.settings import CheckpointError
from vgate.engine.backends.base import BackendError
from vgate.wire.messages import FetchFile, FileChunk, ModelInfo
from vgate.wire.model_files import NAMES, FileInfo, ModelFiles

# Sending this much takes a fraction of a millisecond, between two steps. Chunks of a mebibyte leave
# 1.7 MiB more with the allocator of each frontend, whose I/O thread keeps what it freed.
CHUNK_BYTES = 256 * 1024

# What a fingerprint reads of a large file.
_SAMPLES = 64
_SAMPLE_BYTES = 64 * 1024


def describe_model(config: Config, files: ModelFiles, **facts: Any) -> ModelInfo:
    """Return the description of a loaded model; `facts` are the fields that its backend knows.

    One whose files tell no task generates.
    """
    task = config.model.task
    return ModelInfo(
        names=config.model.served_names,
        files=describe(files),
        created=int(time.time()),
        task="generate" if task == "auto" else task,
        **facts,
    )


def read_model_files(directory: Path) -> ModelFiles:
    """Read a model's text files; missing ones are left out."""
    paths = {name: directory / name for name in NAMES}
    try:
        contents = {name: content_of(path) for name, path in paths.items() if path.is_file()}
    except CheckpointError as error:
        raise BackendError(str(error)) from None
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
    """Return a text that changes with a model's files, its weights included; on all hosts the same.

    Reading the weights would take too long, so of a large file it has the size and samples, which
    other weights differ in. Names of links and modification times are each host's own.
    """
    entries = [_entry(path) for path in sorted(directory.iterdir()) if path.is_file()]
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()


def _entry(path: Path) -> str:
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            last = max(0, size - _SAMPLE_BYTES)
            step = max(1, last // (_SAMPLES - 1)) if size > _SAMPLES * _SAMPLE_BYTES else 0
            for offset in [*range(0, last, step), last] if step else [0]:
                file.seek(offset)
                digest.update(file.read(_SAMPLE_BYTES if step else size))
    except OSError as error:
        raise BackendError(f"cannot read {path}: {error.strerror}") from error
    return f"{path.name} {size} {digest.hexdigest()}"


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
