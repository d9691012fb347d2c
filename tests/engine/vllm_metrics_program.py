"""`python -m tests.engine.vllm_metrics_program MODEL REPORT`: the metrics of vLLM's own server."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace


def main(model: str, report_path: str) -> None:
    """Write type and labels of each family by its name."""
    from prometheus_client import REGISTRY
    from vllm import EngineArgs
    from vllm.v1.metrics.loggers import PrometheusStatLogger
    from vllm.v1.spec_decode.metrics import SpecDecodingProm

    arguments = EngineArgs(
        model, enable_lora=True, max_lora_rank=8, kv_cache_memory_bytes=1 << 26, enforce_eager=True
    )
    logger = PrometheusStatLogger(arguments.create_engine_config())
    logger.log_engine_initialized()
    # It has these only where a model drafts tokens, with the labels of the others.
    labels = [*REGISTRY._names_to_collectors["vllm:num_requests_running"]._labelnames]
    SpecDecodingProm(SimpleNamespace(num_speculative_tokens=1), labels, {0: ["model", "0"]})
    report = {
        family.name: [family.type, sorted(collector._labelnames)]
        for name, collector in REGISTRY._names_to_collectors.items()
        if name.startswith("vllm:")
        for family in collector.describe() or collector.collect()
    }
    Path(report_path).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
