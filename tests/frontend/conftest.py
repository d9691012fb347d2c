"""Text models that several frontend suites share."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.frontend.gateway import Gateway
from vgate.config.model import Model
from vgate.engine.backends.dry_run.vocabulary import built_in_files
from vgate.engine.served_files import read_model_files
from vgate.frontend.text import TextModel, load_text_model
from vgate.wire.messages import ModelInfo


def model_info(**more: int) -> ModelInfo:
    return ModelInfo(["m"], [], 2048, 8, 65_536, 1, "dry_run", **more)


def load(directory: Path | None, **config: Any) -> TextModel:
    """Load the text side of a model's directory, or of the dry run's vocabulary."""
    files = read_model_files(directory) if directory else built_in_files()
    return load_text_model(model_info(), Model(**config), files)


@pytest.fixture(scope="session")
def tiny(tiny_model_dir: Path) -> TextModel:
    """The tiny model: a byte-level BPE."""
    return load(tiny_model_dir)


@pytest.fixture(scope="session")
def built_in() -> TextModel:
    """The dry-run engine's vocabulary: single bytes, decoded by byte fallback."""
    return load(None)


@pytest.fixture(scope="session", params=["tiny", "built_in"])
def model(request: pytest.FixtureRequest) -> TextModel:
    """Each of the two."""
    text: TextModel = request.getfixturevalue(request.param)
    return text


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
