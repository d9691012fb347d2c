"""Text models that several frontend suites share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.frontend.gateway import Gateway
from vgate.config.schema import Model
from vgate.frontend.text.model import TextModel, load_text_model
from vgate.wire.messages import ModelInfo


def model_info(directory: Path | None, **more: int) -> ModelInfo:
    path = str(directory) if directory else None
    return ModelInfo(["m"], path, 2048, 8, 65_536, 1, "dry_run", **more)


@pytest.fixture(scope="session")
def tiny(tiny_model_dir: Path) -> TextModel:
    """The tiny model: a byte-level BPE."""
    return load_text_model(model_info(tiny_model_dir), Model())


@pytest.fixture(scope="session")
def built_in() -> TextModel:
    """The dry-run engine's vocabulary: single bytes, decoded by byte fallback."""
    return load_text_model(model_info(None), Model())


@pytest.fixture
def serve(tmp_path_factory):
    """Run a scenario on a gateway; `engine=False` leaves the engine out."""

    def run(scenario: Callable[[Gateway], Awaitable[None]], *, engine=True, **sections):
        async def main():
            async with (
                asyncio.timeout(60),
                Gateway(tmp_path_factory.mktemp("g"), **sections) as gateway,
            ):
                if engine:
                    await gateway.start_engine()
                await scenario(gateway)

        asyncio.run(main())

    return run
