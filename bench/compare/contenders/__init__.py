"""Who takes part, by name. A scenario names those that it wants."""

from bench.compare.contenders.base import Build, Settings, Setup
from bench.compare.contenders.gateways import fastapi, granian_constant, litellm
from bench.compare.contenders.vgate import vgate, vgate_dry_run
from bench.compare.contenders.vllm import vllm_rs, vllm_serve, vllm_serve_1p

__all__ = ["CONTENDERS", "Build", "Settings", "Setup"]

CONTENDERS: dict[str, Build] = {
    "vgate": vgate,
    "vgate-dry-run": vgate_dry_run,
    "vllm-serve": vllm_serve,
    "vllm-serve-1p": vllm_serve_1p,
    "vllm-rs": vllm_rs,
    "granian": granian_constant,
    "fastapi": fastapi,
    "litellm": litellm,
}
