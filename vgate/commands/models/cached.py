"""``vgate models cached``: the downloaded models, and what they take of the disk."""

import argparse
import contextlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vgate.commands.command import CommandError
from vgate.commands.text import DIM, plain, styled, table
from vgate.config import Config
from vgate.config.models.catalogue import catalogue
from vgate.config.models.names import hub_cache

_GB = 1e9
_BEGIN = "models--"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Show the models in Hugging Face's cache, which other programs use too, the largest first. "
        "To remove one, delete its directory."
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace, _config: Config) -> None:
    """Show them."""
    cache = hub_cache()
    try:
        found = sorted(_found(cache), key=lambda one: -int(one["bytes"]))
        existing = next(path for path in (cache, *cache.parents) if path.exists())
        free = shutil.disk_usage(existing).free
    except OSError as error:
        raise CommandError(f"cannot read {error.filename}: {error.strerror}") from None
    if options.json:
        document = {"cache": str(cache), "free_bytes": free, "models": found}
        sys.stdout.write(f"{json.dumps(document, indent=2)}\n")
        return
    rows = [("MODEL", "SHORT NAME", "SIZE", "")]
    rows += [(one["name"], one["short_name"], _gb(one["bytes"]), _note(one)) for one in found]
    total = _gb(sum(int(one["bytes"]) for one in found))
    note = styled(f"{total} in {plain(cache)}, which has room for {_gb(free)} more.", DIM)
    sys.stdout.write("\n".join([*table(rows, left=2), "", note, ""]))


def _found(cache: Path) -> Iterator[dict[str, Any]]:
    short = {
        one.repository: name for name, found in catalogue().models.items() for one in found.variants
    }
    for path in cache.glob(f"{_BEGIN}*"):
        name = path.name.removeprefix(_BEGIN).replace("--", "/")
        files = [one for one in path.rglob("*") if one.is_file() and not one.is_symlink()]
        unfinished = [one for one in files if one.name.endswith(".incomplete")]
        yield {
            "name": plain(name),
            "short_name": short.get(name, ""),
            "bytes": _bytes(files),
            "unfinished_bytes": _bytes(unfinished),
            "directory": str(path),
        }


def _bytes(files: list[Path]) -> int:
    size = 0
    for one in files:
        with contextlib.suppress(FileNotFoundError):  # it has come meanwhile, under another name
            size += one.stat().st_size
    return size


def _note(one: dict[str, Any]) -> str:
    return f"{_gb(one['unfinished_bytes'])} unfinished" if one["unfinished_bytes"] else ""


def _gb(count: int) -> str:
    return f"{count / _GB:.1f} GB"
