"""Keys that the earlier V-Gate's configuration had and this one has not, and what to do instead."""

from __future__ import annotations

REPLACED = {
    "model.enforce_eager": "use `model.engine_args: {enforce_eager: true}`",
    "model.engine_type": "vLLM is the only engine: remove it",
    "benchmark": "`python -m bench.load` measures a running server: remove it",
    "inference": "the model's own defaults count (`model.generation_config`): remove it",
    "metrics": "/metrics is always served: remove it",
    "tracing": "there is no tracing: remove it",
    "dryrun_simulated_latency_ms": "use `dry_run.step_ms`",
}
