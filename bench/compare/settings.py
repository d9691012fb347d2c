"""What contenders are made from: a scenario's settings, and what the comparison has for all."""

from pathlib import Path
from typing import Any

import msgspec

from bench.compare.models import Models
from bench.compare.service import ROOT
from bench.paced_device.device import Device


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """What a scenario wants of its contenders; each uses what applies to it.

    Attributes:
        step_ms: Time between two tokens of a simulated engine.
        workers: HTTP processes; 0 for the contender's default.
        output_tokens: Length of a made-up answer.
        body: The constant answer.
        compiled: Whether vLLM compiles its model instead of running it eagerly.
        device: What keeps time in the place of vLLM's model.
        kv_cache_tokens: The size of that device's KV cache; None for enough.
    """

    step_ms: float = 0.0
    max_num_seqs: int = 64
    max_model_len: int = 2048
    workers: int = 0
    cache: bool = False
    output_tokens: int = 64
    body: str = ""
    compiled: bool = False
    device: Device | None = None
    kv_cache_tokens: int | None = None


class Setup(msgspec.Struct, kw_only=True):
    """What contenders are made from.

    Attributes:
        work: A directory for files that a contender needs.
        peers: The environment of FastAPI and LiteLLM.
        before: Another checkout of V-Gate to measure as well.
        vllm_rs: vLLM's Rust frontend.
        device: Where vLLM's model runs: "cpu" or "cuda".
        model: A model directory that replaces the tiny one in real engines.
        engine_arguments: More arguments for all vLLM engines.
        environment: More variables, by the contender's name.
        devices: The paced devices to measure with, by name; empty for a scenario's own choice.
        clients: Their numbers of clients; empty for a scenario's own choice.
    """

    models: Models
    work: Path
    peers: Path = ROOT / ".venv" / "compare"
    before: Path | None = None
    vllm_rs: Path | None = None
    device: str = "cpu"
    model: Path | None = None
    engine_arguments: dict[str, Any] = {}
    environment: dict[str, dict[str, str | None]] = {}
    devices: dict[str, Device] = {}
    clients: tuple[int, ...] = ()

    @property
    def engine_model(self) -> str:
        """The model of the contenders with a real engine."""
        return str(self.model or self.models.tiny())
