"""Text models that several frontend suites share."""

from __future__ import annotations

from pathlib import Path

import pytest

from vgate.config.schema import Model
from vgate.frontend.text_model import TextModel, load_text_model
from vgate.wire.messages import ModelInfo


def model_info(directory: Path | None) -> ModelInfo:
    return ModelInfo(["m"], str(directory) if directory else None, 2048, 8, 65_536, 1, "dry_run")


@pytest.fixture(scope="session")
def tiny(tiny_model_dir: Path) -> TextModel:
    """The tiny model: a byte-level BPE."""
    return load_text_model(model_info(tiny_model_dir), Model())


@pytest.fixture(scope="session")
def built_in() -> TextModel:
    """The dry-run engine's vocabulary: single bytes, decoded by byte fallback."""
    return load_text_model(model_info(None), Model())
