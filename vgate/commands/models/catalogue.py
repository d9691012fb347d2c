"""``vgate models catalogue``: the models that have short names, and what fits."""

import argparse
import json
import sys
from typing import Any

import msgspec

from vgate.commands.models.sizes import add_vram, card_size
from vgate.commands.text import DIM, plain, styled, table
from vgate.config import Config
from vgate.config.models.catalogue import Entry, catalogue
from vgate.fit.choice import ANSWERS
from vgate.fit.gpu import Card
from vgate.fit.short_names import card_here, choice_of, is_here, where

_GB = 1e9


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Show the models that have short names, the version that fits this machine's GPU, and how "
        f"long the contexts of {ANSWERS} answers at once can be."
    )
    add_vram(parser)
    parser.add_argument("--fitting", action="store_true", help="only those that fit")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace, config: Config) -> None:
    """Show them."""
    known = catalogue()
    card = card_here(config.model.gpu_memory_utilization, card_size(options))
    rows = [_document(name, found, card) for name, found in known.models.items()]
    if options.fitting:
        rows = [row for row in rows if row["fits"]]
    if options.json:
        document = {"date": known.date, "card": msgspec.to_builtins(card), "models": rows}
        sys.stdout.write(f"{json.dumps(document, indent=2)}\n")
        return
    head = ("MODEL", "VERSION", "FORMAT", "DOWNLOAD", "CONTEXT", "")
    lines = table([head, *map(_row, rows)], left=3)
    note = f"On {plain(where(card))}; the catalogue is of {known.date}."
    sys.stdout.write("\n".join([*lines, "", styled(note, DIM), ""]))


def _document(name: str, found: Entry, card: Card) -> dict[str, Any]:
    best = choice_of(found, card).best
    variant = best.variant if best else min(found.variants, key=lambda one: one.bytes)
    return {
        "name": name,
        "task": found.task,
        "fits": best is not None,
        **msgspec.to_builtins(variant),
        "answers": best.answers if best else 0,
        "context": best.context if best else 0,
        "downloaded": is_here(variant),
        "variants": msgspec.to_builtins(found.variants),
    }


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    context = f"{row['context']:,}" if row["fits"] else "does not fit"
    if row["fits"] and row["answers"] < ANSWERS:
        context += ", one answer"
    notes = ("downloaded" * row["downloaded"], "licence to accept" * row["gated"])
    size = f"{row['bytes'] / _GB:.1f} GB"
    words = ", ".join(filter(None, notes))
    return (row["name"], row["repository"], row["kind"], size, context, words)
