"""``vgate usage``: what API keys have used, from the ledger; the server may be down."""

import argparse
import csv
import json
import sys
from datetime import date
from pathlib import Path

import msgspec

from vgate.commands.command import CommandError
from vgate.commands.text import note, plain, table
from vgate.config import Config
from vgate.usage import LedgerError, Row, Used, read_usage

_BY = ("key", "model", "day")
_FIELDS = Used.__struct_fields__


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Show requests and tokens by key, model or day, up to the last request. It reads the state "
        "directory on this machine, so the server need not run."
    )
    parser.add_argument(
        "--by",
        type=_columns,
        default=["key"],
        metavar="COLUMN,...",
        help=f"group by any of {', '.join(_BY)} (key)",
    )
    for flag, what in (("--since", "first"), ("--until", "last")):
        parser.add_argument(
            flag, type=_day, metavar="DAY", help=f"{what} day (UTC), such as 2027-01-31"
        )
    parser.add_argument("--key", metavar="NAME", help="only this key")
    parser.add_argument(
        "--state-dir", metavar="DIR", help="state directory (default: server.state_dir)"
    )
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--csv", action="store_true", help="print CSV")
    form.add_argument("--json", action="store_true", help="print JSON, as GET /v1/usage does")


def run(options: argparse.Namespace, config: Config) -> None:
    """Show it."""
    state = Path(options.state_dir) if options.state_dir else config.server.state_path
    by, since, until = options.by, options.since or date.min, options.until or date.max
    try:
        rows = read_usage(state, by, since=since, until=until, key=options.key)
    except LedgerError as error:
        raise CommandError(str(error)) from None
    if options.json:
        document = {"object": "list", "data": [row.flat for row in rows]}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    elif options.csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([*by, *_FIELDS])
        writer.writerows([*_names(row, by), *msgspec.structs.astuple(row.used)] for row in rows)
    elif rows:
        sys.stdout.write(_table(rows, by))
    else:
        note(f"nothing was used in this time, or not with {state}")


def _columns(text: str) -> list[str]:
    found = [each.strip() for each in text.split(",")]
    if unknown := [each for each in found if each not in _BY]:
        raise argparse.ArgumentTypeError(f"`{unknown[0]}` is not one of {', '.join(_BY)}")
    return [each for each in _BY if each in found]


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"`{text}` is not a day such as 2027-01-31") from None


def _names(row: Row, by: list[str]) -> list[str]:
    return [getattr(row, column) or "" for column in by]


def _counts(used: Used) -> list[str]:
    return [f"{value:,}" for value in msgspec.structs.astuple(used)]


def _table(rows: list[Row], by: list[str]) -> str:
    total = sum((row.used for row in rows), start=Used())
    heads = [*by, *(field.removesuffix("_tokens") for field in _FIELDS)]
    lines = [[head.upper() for head in heads]]
    for row in rows:
        names = [plain(name or "-") for name in _names(row, by)]
        lines.append([*names, *_counts(row.used)])
    lines.append(["total", *[""] * (len(by) - 1), *_counts(total)])
    return "\n".join(table(lines, left=len(by))) + "\n"
