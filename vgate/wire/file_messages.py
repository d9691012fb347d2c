"""How a frontend reads the model's files from an engine. It need not have the engine's disk."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from vgate.wire.message import Message


class FileInfo(msgspec.Struct, frozen=True, array_like=True):
    """A file of the model that frontends need.

    Attributes:
        name: Its name in the model's directory, see `vgate.wire.model_files`.
        digest: SHA-256 of its content.
        size: Its size in bytes.
    """

    name: str
    digest: bytes
    size: int


class FetchFile(Message, frozen=True):
    """Ask for the next chunk of one of the model's files. Ask for one chunk at a time.

    Attributes:
        digest: The file's, see `FileInfo`.
        offset: Where the chunk begins, in bytes.
    """

    digest: bytes
    offset: Annotated[int, Meta(ge=0)]


class FileChunk(Message, frozen=True):
    """The answer to `FetchFile`. `data` is empty at the file's end and for an unknown digest."""

    digest: bytes
    offset: int
    data: bytes
