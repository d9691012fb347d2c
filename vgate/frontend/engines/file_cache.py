"""Model files that engines have sent, on disk by digest.

All workers of an instance share the directory. So an engine sends a file once: to the worker that
needs it first, not to one that starts later or restarts.
"""

import asyncio
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from vgate.wire.model_files import FileInfo, ModelFiles

# Returns a chunk of the file with this digest, from an offset; b"" at its end.
ReadChunk = Callable[[bytes, int], Awaitable[bytes]]

_LOCK_POLL_S = 0.002


class FileCacheError(Exception):
    """A model's file is not available; the message says why."""


async def load_files(
    directory: Path, origin: str, files: list[FileInfo], read: ReadChunk
) -> ModelFiles:
    """Return the contents of a model's files.

    Args:
        directory: Where they are kept. It is created; only its user can read it.
        origin: The model's name, for error messages.
        files: The engine's description of the files.
        read: Reads a chunk from an engine.

    Raises:
        FileCacheError: A file can't be stored, or its content does not have its digest.
        EngineUnavailableError: `read` failed.
    """
    try:
        await asyncio.to_thread(directory.mkdir, mode=0o700, exist_ok=True)
        contents = {file.name: await _content(directory, file, read) for file in files}
    except OSError as error:
        message = f"cannot keep the files of {origin} in {directory}: {error.strerror}"
        raise FileCacheError(message) from None
    return ModelFiles(origin, contents)


async def _content(directory: Path, file: FileInfo, read: ReadChunk) -> bytes:
    loop = asyncio.get_running_loop()
    path = directory / file.digest.hex()
    content = await loop.run_in_executor(None, _verified, path, file)
    if content is None:
        async with _locked(path.with_suffix(".lock")):
            # Another worker may have stored it meanwhile.
            content = await loop.run_in_executor(None, _verified, path, file)
            if content is None:
                await _download(path, file, read)
                content = await loop.run_in_executor(None, _verified, path, file)
    if content is None:
        message = f"the engine has sent another {file.name} than it described"
        raise FileCacheError(message)
    return content


@asynccontextmanager
async def _locked(path: Path) -> AsyncIterator[None]:
    """Hold a lock between processes, which the kernel releases if its holder dies."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600), "wb") as lock:
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                await asyncio.sleep(_LOCK_POLL_S)
        yield


async def _download(path: Path, file: FileInfo, read: ReadChunk) -> None:
    """Store a file chunk by chunk, so that it is never all in memory."""
    draft = path.with_suffix(".draft")
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        offset = 0
        while offset < file.size and (chunk := await read(file.digest, offset)):
            out.write(chunk)
            offset += len(chunk)
    draft.replace(path)


def _verified(path: Path, file: FileInfo) -> bytes | None:
    """Return a stored file's content; None if it is missing or damaged."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return None
    return content if hashlib.sha256(content).digest() == file.digest else None
