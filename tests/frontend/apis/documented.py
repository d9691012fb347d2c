"""Reads the tables of fields in ``docs/``."""

import json
import re
from typing import Any, NamedTuple

from vgate.frontend.apis.docs import PAGES

_TABLE = re.compile(r"(?m)^<!-- fields: (.+) -->\n((?:\|.*\n)*)")
_ROW = re.compile(
    r"\| `(?P<name>\w+)` \| (?P<kind>\w+) \| .*?\| `(?P<example>.+?)` \|(?P<remark>.*)\|"
)


class Row(NamedTuple):
    name: str
    kind: str
    example: Any


def tables() -> dict[str, list[Row]]:
    """Return every table, and check that every row has an example."""
    found: dict[str, list[Row]] = {}
    for page in sorted(PAGES.glob("api*.md")):
        for name, lines in _TABLE.findall(page.read_text(encoding="utf-8")):
            assert name not in found
            rows = []
            for line in lines.splitlines()[2:]:
                match = _ROW.fullmatch(line)
                assert match, f"not a row with an example: {line}"
                rows.append(Row(match["name"], match["kind"], json.loads(match["example"])))
            found[name] = rows
    return found
