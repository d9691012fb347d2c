"""The backends by name. An engine imports only the one that it runs."""

import importlib

from vgate.config import Config
from vgate.config.runtime import DRY_RUN, VLLM
from vgate.engine.backends.base import ALL, Allowance, Backend, BackendError, ReportPhase

# A callable of each: (config, report_phase, allowance) -> Backend. The launcher chooses by name.
REGISTRY = {
    DRY_RUN: "vgate.engine.backends.dry_run.backend:DryRunBackend",
    VLLM: "vgate.engine.backends.vllm.environment:create",
}


def load_backend(
    name: str, config: Config, report_phase: ReportPhase, allowance: Allowance = ALL
) -> Backend:
    """Import a backend and load its model; raise BackendError if it can't start."""
    if name not in REGISTRY:
        raise BackendError(f"there is no backend {name!r}; there are: {', '.join(REGISTRY)}")
    module, _, attribute = REGISTRY[name].partition(":")
    backend: Backend = getattr(importlib.import_module(module), attribute)(
        config, report_phase, allowance
    )
    return backend
