"""Names that are meant for the Hugging Face Hub, and what people write instead of them."""

import contextlib
import os
import re
from pathlib import Path

from vgate.config.models.catalogue import similar
from vgate.config.models.settings import CheckpointError

# https://github.com/huggingface/huggingface_hub, utils/_validators.py: NAME or OWNER/NAME.
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?", re.ASCII)
_MOST_CHARS = 96
_ADDRESS = re.compile(
    r"(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/([\w.-]+/[\w.-]+)"
    r"|hf://([\w.-]+/[\w.-]+)"
)
_OLLAMA = re.compile(
    r"(?:ollama://|registry\.ollama\.ai/)?(?:library/)?([\w.-]+(?:/[\w.-]+)?):([\w.-]+)"
)
_INSTEAD = "name a directory with the model, or its name on the Hugging Face Hub (OWNER/NAME)"
_HUB = "https://huggingface.co"
_TRUE = frozenset({"1", "ON", "YES", "TRUE"})


def check_name(name: str) -> None:
    """Raise CheckpointError if what is no directory is no name on the Hub, or can't be fetched."""
    where = f"model.model_id: {name}"
    if found := _ADDRESS.match(name):
        raise CheckpointError(f"{where} is an address: set it to {found[1] or found[2]}")
    if "://" in name:
        raise CheckpointError(f"{where} is an address: {_INSTEAD}")
    if name.lower().endswith(".gguf") or re.search(r"[-_.]gguf$|-gguf[/:]", name.lower()):
        raise CheckpointError(
            f"{where} has GGUF files, which can't be served from the Hub: take the model's version "
            "with safetensors files, in AWQ, GPTQ or FP8 if it has to be small; docs/small-gpus.md "
            "says how to serve one from a directory"
        )
    if found := _OLLAMA.fullmatch(name):
        close = " or ".join(similar(name))
        hint = f"; did you mean {close}?" if close else ""
        raise CheckpointError(
            f"{where} is none of the short names of `vgate models catalogue`, and Ollama's models "
            "can't be served: take the model from the Hugging Face Hub, where its name is like "
            f"Qwen/Qwen3-8B{hint}"
        )
    if (
        not _NAME.fullmatch(name)
        or len(name) > _MOST_CHARS
        or name.endswith((".safetensors", ".bin"))
    ):
        raise CheckpointError(f"model.model_id: there is no directory {name}{nearby(name)}")
    if is_offline() and not _is_cached(name):
        raise CheckpointError(
            f"cannot fetch the model {name}: it is not in {hub_cache()}, and HF_HUB_OFFLINE is "
            "set; set model.model_id to a directory with the model, or unset HF_HUB_OFFLINE"
            f"{nearby(name)}"
        )


def is_directory(name: str | Path) -> bool:
    """Whether there is such a directory; what is too long for a path is none."""
    try:
        return Path(name).is_dir()
    except OSError:
        return False


def expanded(path: str | Path) -> Path:
    """Return a path with "~" replaced, if there is such a home directory."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def nearby(name: str) -> str:
    """Return what there is that may be meant by a path, as words to append; "" if nothing is."""
    if is_directory(Path("/", name)):
        return f"; did you mean /{name.lstrip('/')}?"
    path = Path(name)
    parent = next((found for found in path.parents if is_directory(found)), Path())
    if parent in {Path(), Path("/")}:
        return ""
    try:
        models = sorted(str(found.parent) for found in parent.glob("*/config.json"))
    except OSError:
        return ""
    return f"; {parent} has {', '.join(models[:3])}" if models else ""


def hub_cache() -> Path:
    """Return where models from the Hub are kept (huggingface_hub/constants.py)."""
    environ = os.environ
    named = environ.get("HF_HUB_CACHE") or environ.get("HUGGINGFACE_HUB_CACHE")
    caches = environ.get("XDG_CACHE_HOME") or "~/.cache"
    return expanded(named or Path(environ.get("HF_HOME") or Path(caches, "huggingface"), "hub"))


def hub_folder(name: str) -> Path:
    """Return where the cache keeps a model of the Hub."""
    return hub_cache() / f"models--{name.replace('/', '--')}"


def _is_cached(name: str) -> bool:
    try:
        return any(hub_folder(name).glob("snapshots/*"))
    except OSError:
        return False


def hub_endpoint() -> str:
    """Return the address of the Hub, or of the mirror that `HF_ENDPOINT` names."""
    return (os.environ.get("HF_ENDPOINT") or _HUB).rstrip("/")


def is_offline() -> bool:
    """Whether the Hub may not be asked."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in _TRUE


def cached_snapshot(name: str, revision: str | None) -> Path | None:
    """Return the directory of a model in the Hub's cache, None if it isn't there."""
    place = hub_folder(name)
    commit = revision or "main"
    with contextlib.suppress(OSError, ValueError):  # it may be a commit itself
        commit = (place / "refs" / commit).read_text(encoding="utf-8").strip()
    snapshot = place / "snapshots" / commit
    return snapshot if is_directory(snapshot) else None
