"""``vgate keys``: add, list, change, revoke and rotate the API keys of the key file."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from vgate.commands.command import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from vgate.commands.text import note, plain, table
from vgate.config import Config
from vgate.key_file import KeyFile
from vgate.keys import ApiKey, KeysError, KeyTerms, read_key_file
from vgate.validation import explain
from vgate.wire.link_keys import (
    ALLOWED,
    ENGINE_KEY,
    ENGINE_PUBLIC,
    FRONTEND_KEY,
    LinkKeyError,
    allow,
    key_of,
    make_keys,
)

_NO_HASH = "0" * 64  # until `KeyFile` makes the key
_LIMIT_COLUMNS = ("RATE LIMIT", "TOKENS/MIN", "CONCURRENT", "BUDGET", "WEIGHT", "PRIORITY")
_COLUMNS = ("NAME", *_LIMIT_COLUMNS, "GROUP", "MODELS", "ADMIN", "EXPIRES", "CREATED", "SHA-256")
_TERMS: tuple[tuple[str, Callable[[str], Any], str, str], ...] = (
    ("--rate-limit", int, "N", "requests per window"),
    ("--tokens-per-minute", int, "N", "prompt and completion tokens per minute"),
    ("--concurrent", int, "N", "concurrent requests"),
    ("--weight", float, "W", "share relative to other keys (1)"),
    ("--min-priority", int, "P", "smallest `priority` it may ask for (0); smaller starts sooner"),
    ("--group", str, "NAME", "keys of a group share cached answers and prompts"),
    (
        "--models",
        lambda text: text.split(","),
        "NAME,...",
        "the only models or aliases it may use",
    ),
    ("--expires-at", str, "TIME", "such as 2027-01-31T00:00:00Z"),
    ("--budget-tokens", int, "N", "prompt and completion tokens per --budget-period"),
    ("--budget-period", str, "PERIOD", "day or month (UTC); default: month"),
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``vgate keys`` to `parser`; `run` takes what it parses."""
    parser.description = (
        "Manage API keys. A running server applies changes within a second; running requests "
        "continue."
    )
    _add_file(parser, None)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    add = actions.add_parser("add", help="make a key and print it once")
    add.add_argument("name", metavar="NAME", help="shown in logs and metrics")
    change = actions.add_parser("set", help="change the given terms of a key")
    change.add_argument("name", metavar="NAME")
    names = [name.replace("_", "-") for name in KeyTerms.__struct_fields__]
    unset = "reset a term to its default; may be repeated"
    change.add_argument("--unset", action="append", default=[], choices=names, help=unset)
    for parser_ in (add, change):
        for flag, kind, metavar, what in _TERMS:
            parser_.add_argument(flag, type=kind, metavar=metavar, help=what)
        what = "it may use /admin and see what other keys use"
        parser_.add_argument("--admin", action="store_true", default=None, help=what)
    actions.add_parser("list", help="list names, terms and the first digits of the hashes")
    for action, what in (
        ("revoke", "delete a key"),
        ("rotate", "replace a key, but keep its name and terms; the old one stops working"),
    ):
        actions.add_parser(action, help=what).add_argument("name", metavar="NAME")
    for parser_ in actions.choices.values():
        # Not to replace what was given before the action.
        _add_file(parser_, argparse.SUPPRESS)

    what = "make the keys of engines and frontends on different hosts; see docs/hosts.md"
    engine = actions.add_parser("engine", help=what)
    what = "default: engine_link.keys, or link-keys in the state directory"
    engine.add_argument("--dir", metavar="DIR", help=what)
    what = "let the frontends with this public key connect to the engine too"
    engine.add_argument("--allow", metavar="PUBLIC_KEY", help=what)
    engine.add_argument("--name", metavar="NAME", default="frontend", help="for --allow")


def _add_file(parser: argparse.ArgumentParser, default: str | None) -> None:
    what = "default: security.key_file"
    parser.add_argument("--key-file", metavar="FILE", default=default, help=what)


def run(options: argparse.Namespace, config: Config) -> int:
    """Run the action on the key file; return the exit status."""
    if options.action == "engine":
        return _make_link_keys(options, config)
    named = options.key_file or config.security.key_file
    if not named:
        note("no key file: set security.key_file, or give --key-file")
        return EXIT_USAGE
    path = Path(named)
    try:
        if options.action == "list":
            sys.stdout.write(_table(read_key_file(path)))
        elif options.action == "revoke":
            KeyFile(path).revoke(options.name)
            note(f"`{options.name}` is revoked")
        elif options.action == "set":
            KeyFile(path).change(options.name, _changed_terms(options))
            note(f"`{options.name}` is changed")
        elif options.action == "rotate":
            _print_key(KeyFile(path).rotate(options.name), options.name)
        else:
            if options.name in {key.name for key in config.security.api_keys}:
                raise KeysError(f"security.api_keys has a key `{options.name}`: take another name")
            _print_key(KeyFile(path).add(_new_key(options)), options.name)
    except KeysError as error:
        note(str(error))
        return EXIT_FAILED
    return EXIT_OK


def _make_link_keys(options: argparse.Namespace, config: Config) -> int:
    """Make the key files of links between hosts, or add a key to the list of those allowed."""
    directory = Path(options.dir) if options.dir else config.link_keys
    try:
        if options.allow:
            new = allow(directory / ALLOWED, key_of(options.allow), options.name)
            note(f"`{options.name}` may connect" if new else "this key may connect already")
            return EXIT_OK
        made = make_keys(directory)
    except LinkKeyError as error:
        note(str(error))
        return EXIT_FAILED
    for path in made:
        note(f"made {path}")
    note(
        f"an engine's host needs {ENGINE_KEY} and {ALLOWED}, a frontend's {FRONTEND_KEY} and "
        f"{ENGINE_PUBLIC}: copy them there, into the directory of its engine_link.keys"
    )
    return EXIT_OK


def _new_key(options: argparse.Namespace) -> ApiKey:
    given = {name: getattr(options, name) for name in ("name", *KeyTerms.__struct_fields__)}
    return _converted({name: value for name, value in given.items() if value is not None})


def _changed_terms(options: argparse.Namespace) -> dict[str, Any]:
    unset = [name.replace("-", "_") for name in options.unset]
    key = _new_key(options)
    given = [name for name in KeyTerms.__struct_fields__ if getattr(options, name) is not None]
    if not given + unset:
        raise KeysError("nothing to change: give a term, or --unset one")
    plain = _converted({"name": options.name})
    return {name: getattr(plain if name in unset else key, name) for name in [*given, *unset]}


def _converted(document: dict[str, Any]) -> ApiKey:
    try:
        return msgspec.convert({**document, "sha256": _NO_HASH}, ApiKey)
    except msgspec.ValidationError as error:
        raise KeysError(str(explain(error, document))) from None


def _print_key(secret: str, name: str) -> None:
    """Print the key alone on standard output, for scripts."""
    sys.stdout.write(f"{secret}\n")
    sys.stdout.flush()
    note(f"this is the key `{name}`. Store it now: only its hash is kept")


def _table(keys: list[ApiKey]) -> str:
    rows = [_COLUMNS, *([plain(cell) for cell in _row(key)] for key in keys)]
    return "".join(f"{line}\n" for line in table(rows, left=len(_COLUMNS)))


def _row(key: ApiKey) -> tuple[str, ...]:
    return (
        key.name,
        "default" if key.rate_limit is None else str(key.rate_limit),
        "-" if key.tokens_per_minute is None else str(key.tokens_per_minute),
        "-" if key.concurrent is None else str(key.concurrent),
        "-" if key.budget_tokens is None else f"{key.budget_tokens}/{key.budget_period}",
        f"{key.weight:g}",
        str(key.min_priority),
        key.group or "-",
        ",".join(key.models or ["-"]),
        "yes" if key.admin else "-",
        "-" if key.expires_at is None else f"{key.expires_at:%Y-%m-%d %H:%M:%S%z}",
        (key.created or "-").removesuffix("Z").replace("T", " "),
        key.sha256[:8],
    )
