"""``vgate keys``: add, list, revoke and rotate the API keys of the key file."""

import argparse
import sys
from pathlib import Path

import msgspec

from vgate.keys import ApiKey, KeysError, KeyTerms, read_key_file
from vgate.launcher.key_file import KeyFile
from vgate.validation import explain

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

_NO_HASH = "0" * 64  # until `KeyFile` makes the key
_LIMIT_COLUMNS = ("RATE LIMIT", "TOKENS/MIN", "CONCURRENT", "WEIGHT", "PRIORITY")
_COLUMNS = ("NAME", *_LIMIT_COLUMNS, "GROUP", "ADMIN", "CREATED", "SHA-256")
_TERMS: tuple[tuple[str, type, str, str], ...] = (
    ("--rate-limit", int, "N", "requests per window"),
    ("--tokens-per-minute", int, "N", "of prompts and answers"),
    ("--concurrent", int, "N", "requests at the same time"),
    ("--weight", float, "W", "share relative to other keys (1)"),
    ("--min-priority", int, "P", "most urgent priority of its requests (0); lower starts sooner"),
    ("--group", str, "NAME", "keys of a group share cached answers and prompts with each other"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``vgate keys`` to `parser`; `run` takes what it parses."""
    parser.description = (
        "Manage API keys. A running server applies changes within a second; running requests "
        "continue."
    )
    parser.add_argument("--key-file", metavar="FILE", help="default: security.key_file")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="make a key and print it once")
    add.add_argument("name", metavar="NAME", help="shown in logs and metrics")
    for flag, kind, metavar, what in _TERMS:
        add.add_argument(flag, type=kind, metavar=metavar, help=what)
    add.add_argument("--admin", action="store_true", help="it may see what the other keys use")
    actions.add_parser("list", help="show names, limits and the first digits of the hashes")
    for action, what in (
        ("revoke", "refuse a key from now on"),
        ("rotate", "replace a key, keep its name and limits; the old one is refused from now on"),
    ):
        actions.add_parser(action, help=what).add_argument("name", metavar="NAME")


def run(options: argparse.Namespace, key_file: str | None) -> int:
    """Run the action on `key_file`, or on that of ``--key-file``; return the exit status."""
    named = options.key_file or key_file
    if not named:
        _report("no key file: set security.key_file, or give --key-file")
        return EXIT_USAGE
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
        return EXIT_FAILED
    return EXIT_OK


def _new_key(options: argparse.Namespace) -> ApiKey:
    given = {name: getattr(options, name) for name in ("name", *KeyTerms.__struct_fields__)}
    document = {name: value for name, value in given.items() if value is not None}
    try:
        return msgspec.convert({**document, "sha256": _NO_HASH}, ApiKey)
    except msgspec.ValidationError as error:
        raise KeysError(str(explain(error, document))) from None


def _print_key(secret: str, name: str) -> None:
    """Print the key alone on standard output, for scripts."""
    sys.stdout.write(f"{secret}\n")
    sys.stdout.flush()
    _report(f"this is the key `{name}`. Store it now: only its hash is kept")


def _report(message: str) -> None:
    sys.stderr.write(f"vgate: {message}\n")


def _table(keys: list[ApiKey]) -> str:
    rows = [_COLUMNS, *map(_row, keys)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
    return "".join(f"{line}\n" for line in lines)


def _row(key: ApiKey) -> tuple[str, ...]:
    return (
        key.name,
        "default" if key.rate_limit is None else str(key.rate_limit),
        "-" if key.tokens_per_minute is None else str(key.tokens_per_minute),
        "-" if key.concurrent is None else str(key.concurrent),
        f"{key.weight:g}",
        str(key.min_priority),
        key.group or "-",
        "yes" if key.admin else "-",
        (key.created or "-").removesuffix("Z").replace("T", " "),
        key.sha256[:8],
    )
