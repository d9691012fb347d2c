"""Writes the tests' tiny model to a directory, for use by hand."""

from __future__ import annotations

import argparse
from pathlib import Path

from tests.tiny_model import make_tiny_model


def main() -> None:
    """Parse the command line and write the model."""
    parser = argparse.ArgumentParser(prog="python -m tests.tiny_model", description=__doc__)
    parser.add_argument("directory", type=Path, metavar="DIR")
    parser.add_argument("--tokenizer-only", action="store_true", help="leave out the weights")
    arguments = parser.parse_args()
    make_tiny_model(arguments.directory, weights=not arguments.tokenizer_only)


if __name__ == "__main__":
    main()
