"""The backends by name.

A factory imports its backend in its body, so that no process loads a backend that it does not run.
"""

from __future__ import annotations

from collections.abc import Callable

from vgate.config import Config
from vgate.engine.backends.base import Backend, ReportPhase


def _dry_run(config: Config, report_phase: ReportPhase) -> Backend:
    if config.model.task == "embed":
        from vgate.engine.backends.dry_run.embedding import DryRunEmbeddingBackend

        return DryRunEmbeddingBackend(config, report_phase)

    from vgate.engine.backends.dry_run.backend import DryRunBackend

    return DryRunBackend(config, report_phase)


def _vllm(config: Config, report_phase: ReportPhase) -> Backend:
    from vgate.engine.backends.vllm.backend import VLLMBackend

    return VLLMBackend(config, report_phase)


REGISTRY: dict[str, Callable[[Config, ReportPhase], Backend]] = {
    "dry_run": _dry_run,
    "vllm": _vllm,
}
