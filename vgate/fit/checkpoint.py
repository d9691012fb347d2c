"""A model's config.json and the headers of its safetensors files: from a directory or the Hub.

A safetensors file begins with the length of its header, eight bytes, little-endian, and the header,
which names each tensor's type and shape (https://github.com/huggingface/safetensors#format). So a
few hundred kilobytes tell what a model of any size takes.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from vgate.config.models.names import cached_snapshot, is_directory
from vgate.fit.errors import FitError

INDEX = "model.safetensors.index.json"
_LENGTH_BYTES = 8
# The format's own limit of a header. All of a model's together may not have more either, nor its
# index: those of a model with a million tensors have that.
MOST_BYTES = 100_000_000
_MOST_CONFIG_BYTES = 10_000_000
# Models of a trillion parameters have some hundred.
_MOST_FILES = 2_000
_MOST_ELEMENTS = 1 << 48
# Most headers are smaller, so one read gets them.
_FIRST_READ_BYTES = 1 << 18
# Bits of an element, for each type of the format.
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("I8", "U8", "BOOL"), 8),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    "F4": 4,
}

# Returns a part of a file: name, first byte (None: it is to be whole), most bytes. None if there is
# no file.
ReadPart = Callable[[str, int | None, int], bytes | None]


class Tensor(msgspec.Struct, frozen=True):
    """One tensor as its file describes it."""

    dtype: str
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=_MOST_ELEMENTS)]], Meta(max_length=16)]

    @property
    def elements(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)

    @property
    def size_bytes(self) -> int:
        """What it takes as it is stored."""
        return self.elements * _BITS.get(self.dtype, 16) // 8


class Checkpoint(msgspec.Struct, frozen=True):
    """What is known of a model: its configuration and its tensors by name."""

    name: str
    config: dict[str, Any]
    tensors: dict[str, Tensor]

    @property
    def text(self) -> dict[str, Any]:
        """The part of the configuration that describes the language model."""
        for key in ("text_config", "llm_config", "language_config"):
            if isinstance(part := self.config.get(key), dict):
                return part
        return self.config


def read_checkpoint(
    name: str, revision: str | None, fetch: Callable[[str], ReadPart] | None = None
) -> Checkpoint:
    """Return what a directory, the cache of the Hub or the Hub itself tells of a model.

    Args:
        name: A directory, or OWNER/NAME.
        revision: Which version of it, on the Hub.
        fetch: Returns how to read files of a model that isn't on this machine; None: nothing may.

    Raises:
        FitError: It can't be read, or it has no safetensors files.
    """
    if is_directory(name):
        return _read(name, _local(Path(name)))
    snapshot = cached_snapshot(name, revision)
    if snapshot is not None and _has_weights(snapshot):
        return _read(name, _local(snapshot))
    if fetch is None:
        raise FitError(f"{name} has not been fetched yet")
    return _read(name, fetch(name))


def _has_weights(directory: Path) -> bool:
    return any(directory.glob("*.safetensors"))


def _local(directory: Path) -> ReadPart:
    def read(file: str, start: int | None, most: int) -> bytes | None:
        try:
            with (directory / file).open("rb") as opened:
                opened.seek(start or 0)
                return opened.read(most)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise FitError(f"cannot read {directory / file}: {error.strerror}") from None

    return read


def _read(name: str, read: ReadPart) -> Checkpoint:
    config = _object(read, "config.json", name, _MOST_CONFIG_BYTES)
    if config is None:
        raise FitError(f"{name} has no config.json: name a model's directory, or OWNER/NAME")
    index = _object(read, INDEX, name, MOST_BYTES)
    weights = (index or {}).get("weight_map")
    files = list(weights.values()) if isinstance(weights, dict) else ["model.safetensors"]
    if not all(isinstance(file, str) and _is_inside(file) for file in files):
        raise FitError(f"{INDEX} of {name} names no file of weights in it")
    files = sorted(set(files))
    if len(files) > _MOST_FILES:
        raise FitError(
            f"{INDEX} of {name} names {len(files):,} files of weights, and a model has "
            f"{_MOST_FILES:,} at most"
        )
    tensors: dict[str, Tensor] = {}
    left = MOST_BYTES
    for file in files:
        content = _header(read, file, name, left)
        left -= len(content)
        tensors |= _tensors(content, file, name)
    return Checkpoint(name, config, tensors)


def _is_inside(file: str) -> bool:
    """Whether a name from an index is that of a file of the model; anybody may have written it."""
    path = PurePosixPath(file)
    inside = not path.is_absolute() and ".." not in path.parts and "\\" not in file
    return inside and file.isprintable() and path.suffix == ".safetensors"


def _object(read: ReadPart, file: str, name: str, most: int) -> dict[str, Any] | None:
    what = f"{file} of {name}"
    content = read(file, None, most + 1)
    if content is None:
        return None
    if len(content) > most:
        raise FitError(f"{what} has more than {most / 1e6:g} MB, which no model's has")
    try:
        document = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise FitError(f"cannot read {what}: {error}") from None
    if not isinstance(document, dict):
        raise FitError(f"cannot read {what}: it holds no JSON object")
    return document


def _header(read: ReadPart, file: str, name: str, most: int) -> bytes:
    begin = read(file, 0, _FIRST_READ_BYTES)
    if begin is None:
        raise FitError(
            f"{name} lacks {file}: only models with safetensors files can be computed, and all of "
            "them must be there"
        )
    end = _LENGTH_BYTES + int.from_bytes(begin[:_LENGTH_BYTES], "little")
    if most < end <= MOST_BYTES:
        raise FitError(
            f"the headers of {name}'s files have more than {MOST_BYTES / 1e6:g} MB together, which "
            "no model's have"
        )
    if len(begin) < end <= most:
        begin += read(file, len(begin), end - len(begin)) or b""
    if len(begin) < end:
        raise _damaged(file, name)
    return begin[_LENGTH_BYTES:end]


def _tensors(header: bytes, file: str, name: str) -> dict[str, Tensor]:
    try:
        found = msgspec.json.decode(header, type=dict[str, dict[str, Any]])
        found.pop("__metadata__", None)
        return {key: msgspec.convert(value, Tensor) for key, value in found.items()}
    except (msgspec.DecodeError, RecursionError):
        raise _damaged(file, name) from None


def _damaged(file: str, name: str) -> FitError:
    return FitError(f"{file} of {name} is damaged or no safetensors file")
