"""Sizes of cards, as people write them."""

import argparse
import re

from vgate.fit.gpu import GIB, MIB

_UNITS = {"": 1, "k": 1e3, "m": 1e6, "g": 1e9, "ki": 1 << 10, "mi": MIB, "gi": GIB}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(k|m|g|ki|mi|gi|)b?", re.IGNORECASE)
_MOST_BYTES = 1 << 50
# CUDA shows a little less of a card than what is written on it.
_CARD_SHARE = 0.98


def add_vram(parser: argparse.ArgumentParser) -> None:
    """Add ``--vram``, whose value `card_size` returns."""
    what = "the GPU's memory, such as 8GiB (this machine's)"
    parser.add_argument("--vram", type=_size, metavar="SIZE", help=what)


def card_size(options: argparse.Namespace) -> float | None:
    """Return what CUDA shows of the card that was named; None if none was."""
    return None if options.vram is None else options.vram * _CARD_SHARE


def _size(text: str) -> float:
    """Return a number of bytes; a bare number is GiB."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write such as 8GiB")
    unit = found[2].lower()
    # "8", "8G" and "8GB" are what people call a card of 8 GiB.
    size = float(found[1]) * (GIB if unit in {"", "g"} else _UNITS[unit])
    if size > _MOST_BYTES:
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is more than any GPU has")
    return size
