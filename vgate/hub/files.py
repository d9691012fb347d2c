"""Which files of a model are needed, and where the Hub's cache has them."""

import os
import threading
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Literal

import msgspec

from vgate.config.models.names import hub_folder

# Weights in formats that vLLM doesn't load, and what is for people.
_NOT_NEEDED = (
    *("*.pt", "*.pth", "*.gguf", "*.ggml", "*.h5", "*.msgpack", "*.ot", "*.tflite", "*.nemo"),
    *("*.onnx", "*.onnx_data", "onnx/*", "openvino/*", "coreml/*", "*.mlmodel"),
    *("original/*", "metal/*", "runs/*", ".gitattributes", "*.md"),
    *("*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", "*.pdf", "*.mp4"),
)
# Of no use, or the same weights a second time, beside weights that vLLM prefers.
_SECOND_COPIES = ("*.bin", "consolidated*.safetensors*", "params.json")
_OTHER_WEIGHTS = ("adapter_", "consolidated")


class HubFile(msgspec.Struct, frozen=True):
    """A file of a model as the Hub lists it.

    Attributes:
        size: Its bytes; None if the list doesn't say.
        blob: The name of its content in the cache: its checksum, or where that isn't known a name
            that no other file has.
        checksum: What `blob` is: SHA-256 of a large file, git's hash of a small one, or neither.
    """

    name: str
    size: int | None
    blob: str
    checksum: Literal["SHA-256", "git hash"] | None


def needed(names: Iterable[str]) -> set[str]:
    """Return which of a model's files are needed to serve it."""
    found = {name for name in names if not any(fnmatchcase(name, one) for one in _NOT_NEEDED)}
    if "config.json" in found and any(_is_plain_weights(name) for name in found):
        found = {name for name in found if not any(fnmatchcase(name, p) for p in _SECOND_COPIES)}
    return found


def is_inside(name: str) -> bool:
    """Whether a name from a listing is that of a file of the model; anybody may have written it."""
    path = PurePosixPath(name)
    return name.isprintable() and not path.is_absolute() and not {"..", ""} & {*name.split("/")}


def has_model(directory: Path) -> bool:
    """Whether a version in the cache has more than a tokenizer or a configuration."""
    weights = (directory.glob("*.safetensors"), directory.glob("*.bin"))
    return (directory / "config.json").exists() and any(any(found) for found in weights)


def _is_plain_weights(name: str) -> bool:
    inside = "/" not in name and name.endswith(".safetensors")
    return inside and not name.startswith(_OTHER_WEIGHTS)


class Place:
    """Where the cache has one version of a model.

    Attributes:
        snapshot: The folder with the files by their names.
    """

    def __init__(self, name: str, commit: str) -> None:
        self.root = hub_folder(name)
        self.snapshot = self.root / "snapshots" / commit
        self._commit = commit

    def has(self, file: HubFile) -> bool:
        """Whether a file is there, whole."""
        return (self.snapshot / file.name).exists()

    def blob(self, file: HubFile) -> Path:
        """Return where the content of a file belongs."""
        return self.root / "blobs" / file.blob

    def unfinished(self, file: HubFile) -> Path:
        """Return where the content of a file is while it comes."""
        return self.root / "blobs" / f"{file.blob}.incomplete"

    def link(self, file: HubFile) -> None:
        """Give a file that has come its name."""
        named, blob = self.snapshot / file.name, self.blob(file)
        named.parent.mkdir(parents=True, exist_ok=True)
        up = "../" * len(named.relative_to(self.root).parent.parts)
        try:
            named.symlink_to(f"{up}blobs/{file.blob}")
        except FileExistsError:
            return
        except OSError:  # a file system without links
            blob.replace(named)

    def name_commit(self, revision: str) -> None:
        """Note which version a branch or a tag is, so that it is found without the Hub."""
        reference = self.root / "refs" / revision
        if revision == self._commit or _is(reference, self._commit):
            return
        reference.parent.mkdir(parents=True, exist_ok=True)
        # Another process or thread that fetches the model may write it at the same time.
        new = reference.with_name(f"{reference.name}.{os.getpid()}-{threading.get_ident()}.new")
        new.write_text(self._commit, encoding="utf-8")
        new.replace(reference)


def _is(reference: Path, commit: str) -> bool:
    try:
        return reference.read_text(encoding="utf-8").strip() == commit
    except OSError:
        return False
