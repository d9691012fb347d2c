"""Fetches a model for an engine from the Hugging Face Hub."""

from pathlib import Path

from vgate.config.model import Model
from vgate.engine.backends.base import BackendError, ReportPhase
from vgate.hub import HubError
from vgate.hub import fetch as fetch_from_hub


def fetch(model: Model, report_phase: ReportPhase) -> Path:
    """Return the directory of a model of the Hub; download what is not in the cache.

    Raises:
        BackendError: It can't be fetched, or the disk has no room for it.
    """
    phase = f"fetching {model.model_id}"
    report_phase(phase)
    try:
        return fetch_from_hub(
            model.model_id,
            model.revision,
            lambda done, total: report_phase(phase, done, total),
            lambda text: report_phase(f"{phase}: {text}"),
        )
    except HubError as error:
        raise BackendError(str(error), permanent=error.permanent) from error
