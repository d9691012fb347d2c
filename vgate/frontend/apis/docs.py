"""The tables of fields in ``docs/``, from the types and policies of the request structs.

``python -m vgate.frontend.apis.docs`` rewrites the tables, each below a line such as
``<!-- fields: messages -->``. The examples and remarks in a table are written by hand and stay.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_type_hints

import msgspec
from msgspec import inspect

from vgate.frontend.apis.anthropic.messages.request import MessagesRequest
from vgate.frontend.apis.fields import FieldPolicy, policies_of
from vgate.frontend.apis.openai.responses.request import ResponsesRequest

PAGES = Path(__file__).parents[3] / "docs"

# Each table's struct. Its own fields come before the inherited ones.
TABLES: dict[str, type[msgspec.Struct]] = {
    "messages": MessagesRequest,
    "responses": ResponsesRequest,
}

_TABLE = re.compile(r"(?m)^<!-- fields: ([\w -]+) -->\n(?:\|.*\n)*")
_ROW = re.compile(r"(?m)^\| `(?P<name>\w+)` \| \w+ \|.*?\| (?P<rest>`.*? \|.*)$")
_HEAD = "| field | | takes | example | |\n|---|---|---|---|---|\n"
_KINDS = ("served", "accepted", "refused")
# A bound of this size is that of the engine's integers, and says nothing to a client.
_UNBOUNDED = 2**31 - 1


def rendered(page: str) -> str:
    """Return a page with its tables as they should be."""
    return _TABLE.sub(_table, page)


def _table(old: re.Match[str]) -> str:
    by_hand = {row["name"]: row["rest"] for row in _ROW.finditer(old[0])}
    request = TABLES[old[1]]
    hints = get_type_hints(request, include_extras=True)
    fields = {field.encode_name: field for field in msgspec.structs.fields(request)}

    def order(row: tuple[str, FieldPolicy]) -> tuple[int, bool, bool]:
        name, policy = row
        inherited = name not in request.__annotations__
        return _KINDS.index(policy.kind), not fields[name].required, inherited

    lines = [f"<!-- fields: {old[1]} -->\n{_HEAD}"]
    for name, policy in sorted(policies_of(request).items(), key=order):
        takes = _words(hints[fields[name].name])
        takes = _refusal(policy) if policy.kind == "refused" else takes
        takes += ", required" if fields[name].required else ""
        rest = by_hand.get(name, "``| |")
        lines.append(f"| `{name}` | {policy.kind} | {takes} | {rest}\n")
    return "".join(lines)


def _refusal(policy: FieldPolicy) -> str:
    """Return which values pass, and what to send instead."""
    values = " or ".join(f"`{_json(value)}`" for value in policy.neutral)
    return "; ".join(part for part in (values and f"only {values}", policy.instead) if part)


def _json(value: object) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=0).decode()


def _words(hint: object) -> str:
    """Return a type and its bounds in words."""
    return _of_type(inspect.type_info(hint))


def _of_type(kind: inspect.Type) -> str:
    words = "any JSON"
    match kind:
        case inspect.Metadata(type=inner):
            words = _of_type(inner)
        case inspect.UnionType(types=types):
            words = _union([inner for inner in types if not isinstance(inner, inspect.NoneType)])
        case inspect.IntType() | inspect.FloatType():
            words = "integer" if isinstance(kind, inspect.IntType) else "number"
            bounds = "" if kind.gt is None else f"above {kind.gt}"
            bounds = ", ".join(filter(None, (bounds, _bounds(kind.ge, kind.le))))
            words += f" ({bounds})" if bounds else ""
        case inspect.StrType():
            length = _bounds(kind.min_length, kind.max_length, "character")
            words = "text" + (f" ({length})" if length else "")
        case inspect.ListType(item_type=item):
            count = _bounds(kind.min_length, kind.max_length, "item")
            words = f"list of {_of_type(item)}" + (f", {count}" if count else "")
        case inspect.LiteralType(values=values):
            words = ", ".join(f"`{value}`" for value in values)
        case inspect.BoolType():
            words = "true or false"
        case inspect.DictType() | inspect.StructType():
            words = "object"
    return words


def _union(kinds: list[inspect.Type]) -> str:
    """Return alternatives; objects that are told apart by their `type` are one."""
    structs = [kind for kind in kinds if isinstance(kind, inspect.StructType)]
    words = [_of_type(kind) for kind in kinds if not isinstance(kind, inspect.StructType)]
    tags = [f"`{kind.tag}`" for kind in structs if kind.tag is not None]
    if structs:
        words.append("object" + (f" of type {', '.join(tags)}" if tags else ""))
    return " or ".join(words)


def _bounds(least: float | None, most: float | None, unit: str = "") -> str:
    """Return bounds in words; "" for none."""
    low = None if least is None or abs(least) >= _UNBOUNDED else least
    high = None if most is None or abs(most) >= _UNBOUNDED else most
    if low is not None and high is not None:
        words = f"{low} to {high}"
    elif low is not None:
        words = f"at least {low}"
    elif high is not None:
        words = f"at most {high}"
    else:
        return ""
    if not unit:
        return words
    return f"{words} {unit}{'' if (high or low) == 1 else 's'}"


def main() -> None:
    """Rewrite the tables of all pages."""
    for path in PAGES.glob("api*.md"):
        path.write_text(rendered(path.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
