"""``vgate keys``: add, list, revoke and rotate the API keys of the key file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from vgate.keys import ApiKey, KeysError, read_key_file
from vgate.launcher.key_file import KeyFile
from vgate.validation import explain

_FAILED = 1
_USAGE = 2
_SHOWN_HASH_CHARS = 8
_NO_HASH = "0" * 64  # until `KeyFile` makes the key
_LAST = ("CREATED", "SHA-256")
_COLUMNS = ("NAME", "RATE LIMIT", "TOKENS/MIN", "CONCURRENT", "WEIGHT", "PRIORITY", *_LAST)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``vgate keys`` to `parser`; `run` takes what it parses."""
    parser.description = (
        "Manage API keys. A running server applies changes at once; running requests continue."
    )
    parser.add_argument("--key-file", metavar="FILE", help="default: security.key_file")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="make a key and print it once")
    add.add_argument("name", metavar="NAME", help="shown in logs and metrics")
    add.add_argument("--rate-limit", type=int, metavar="N", help="requests per window")
    add.add_argument("--tokens-per-minute", type=int, metavar="N", help="of prompts and answers")
    add.add_argument("--concurrent", type=int, metavar="N", help="requests at the same time")
    add.add_argument(
        "--weight", type=float, default=1.0, metavar="W", help="share relative to other keys (1)"
    )
    add.add_argument(
        "--min-priority",
        type=int,
        default=0,
        metavar="P",
        help="most urgent priority that its requests may have (0); lower is served first",
    )
    actions.add_parser("list", help="show names, limits and the first digits of the hashes")
    for action, what in (
        ("revoke", "refuse a key from now on"),
        ("rotate", "replace a key, keep its name and limits; the old one is refused from now on"),
    ):
        actions.add_parser(action, help=what).add_argument("name", metavar="NAME")


def run(options: argparse.Namespace, key_file: str | None) -> int:
    """Run the action; return the exit status.

    Args:
        options: What the parser of `configure` returned.
        key_file: ``security.key_file``, which ``--key-file`` overrides.
    """
    named = options.key_file or key_file
    if not named:
        _report("no key file: set security.key_file, or give --key-file")
        return _USAGE
    path = Path(named)
    try:
        if options.action == "list":
            sys.stdout.write(_table(read_key_file(path)))
        elif options.action == "revoke":
            KeyFile(path).revoke(options.name)
            _report(f"`{options.name}` is revoked")
        elif options.action == "rotate":
            _print_key(KeyFile(path).rotate(options.name), options.name)
        else:
            _print_key(KeyFile(path).add(_new_key(options)), options.name)
    except KeysError as error:
        _report(str(error))
        return _FAILED
    return 0


def _new_key(options: argparse.Namespace) -> ApiKey:
    names = ("name", "rate_limit", "tokens_per_minute", "concurrent", "weight", "min_priority")
    document = {name: getattr(options, name) for name in names}
    try:
        return msgspec.convert({**document, "sha256": _NO_HASH}, ApiKey)
    except msgspec.ValidationError as error:
        problem = explain(error, document)
    raise KeysError(str(problem))


def _print_key(secret: str, name: str) -> None:
    """Print only the key on standard output, for scripts."""
    sys.stdout.write(f"{secret}\n")
    sys.stdout.flush()
    _report(
        f"this is the key `{name}`. Store it now: only its hash is kept, it can't be shown again"
    )


def _report(message: str) -> None:
    sys.stderr.write(f"vgate: {message}\n")


def _table(keys: list[ApiKey]) -> str:
    rows = [_COLUMNS, *map(_row, keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
    return "".join(f"{line}\n" for line in lines)


def _row(key: ApiKey) -> tuple[str, ...]:
    return (
        key.name,
        "default" if key.rate_limit is None else str(key.rate_limit),
        "-" if key.tokens_per_minute is None else str(key.tokens_per_minute),
        "-" if key.concurrent is None else str(key.concurrent),
        f"{key.weight:g}",
        str(key.min_priority),
        (key.created or "-").removesuffix("Z").replace("T", " "),
        key.sha256[:_SHOWN_HASH_CHARS],
    )
