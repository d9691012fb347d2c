"""The tiny model's tokenizer, for the tests of the model itself."""

from pathlib import Path

import pytest
from tokenizers import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))
