"""Where this V-Gate comes from: a clone that runs in place, or an installed package."""

import sys
from pathlib import Path

import vgate


def clone() -> Path | None:
    """Return the clone that this program runs from, or None if it is installed otherwise."""
    root = Path(vgate.__file__).resolve().parents[1]
    return root if (root / "bin" / "vgate").is_file() else None


def program() -> Path:
    """Return the ``vgate`` program to start this V-Gate with."""
    root = clone()
    return root / "bin" / "vgate" if root else Path(sys.prefix, "bin", "vgate")
