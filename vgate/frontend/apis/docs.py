"""Writes the tables of fields in ``docs/`` from the types and policies of the request structs.

``python -m vgate.frontend.apis.docs`` rewrites each table, below a line such as
``<!-- fields: messages -->``, and keeps its examples and remarks, which are written by hand. It
makes the page's list of clients from ``docs/clients.md``, too.
"""

import json
import re
from pathlib import Path
from typing import Any

import msgspec
from msgspec import inspect

from vgate.frontend.apis.anthropic.messages.request import MessagesRequest
from vgate.frontend.apis.fields import FieldPolicy, policies_of
from vgate.frontend.apis.openai.chat.request import ChatRequest
from vgate.frontend.apis.openai.common import GenerationRequest
from vgate.frontend.apis.openai.completions.request import CompletionRequest
from vgate.frontend.apis.openai.embeddings import EmbeddingRequest
from vgate.frontend.apis.openai.responses.request import ResponsesRequest
from vgate.frontend.apis.openai.scoring import RerankRequest, ScoreRequest, ScoringRequest

PAGES = Path(__file__).parents[3] / "docs"
CLIENTS = Path(__file__).parents[1] / "ui" / "clients.json"

# Each table's struct, and the base struct whose fields are in another table.
TABLES: dict[str, tuple[type[msgspec.Struct], type[msgspec.Struct] | None]] = {
    "chat and completions": (GenerationRequest, None),
    "chat": (ChatRequest, GenerationRequest),
    "completions": (CompletionRequest, GenerationRequest),
    "embeddings": (EmbeddingRequest, None),
    "score and rerank": (ScoringRequest, None),
    "score": (ScoreRequest, ScoringRequest),
    "rerank": (RerankRequest, ScoringRequest),
    "messages": (MessagesRequest, None),
    "responses": (ResponsesRequest, None),
}

_TABLE = re.compile(r"(?m)^<!-- fields: ([\w -]+) -->\n(?:\|.*\n)*")
_ROW = re.compile(
    r"(?m)^\| `(?P<name>\w+)` \| \w+ \|.*?\| (?P<example>`.*?`) \| ?(?P<remark>.*?) ?\|$"
)
_HEAD = "| field | | takes | example | |\n|---|---|---|---|---|\n"
_KINDS = ("served", "accepted", "ignored", "refused")
# Bounds of this size are those of the engine's integers; a client need not know them.
_UNBOUNDED = 2**31 - 1


def rendered(page: str) -> str:
    """Return a page with current tables."""
    return _TABLE.sub(_table, page)


def clients_in(page: str) -> str:
    """Return a page's sections with programs and their settings, as JSON for ``/ui/connect.js``."""
    groups: list[dict[str, Any]] = []
    for section in re.split(r"(?m)^## ", page)[1:]:
        name, *programs = re.split(r"(?m)^### ", section)
        if programs:
            clients = [_client(program) for program in programs]
            groups.append({"name": name.partition("\n")[0], "clients": clients})
    return json.dumps(groups, indent=1, ensure_ascii=False) + "\n"


def _client(section: str) -> dict[str, Any]:
    name, _, rest = section.partition("\n")
    parts: list[dict[str, str]] = []
    for index, part in enumerate(re.split(r"(?ms)^```(.*?)^```\n", rest)):
        if index % 2:
            language, _, code = part.partition("\n")
            parts.append({"language": language, "code": code.rstrip("\n")})
        else:
            texts = (" ".join(text.split()) for text in part.split("\n\n"))
            parts += [{"text": text} for text in texts if text]
    return {"name": name, "parts": parts}


def policies_in(table: str) -> dict[str, FieldPolicy]:
    """Return a table's fields: by kind, then required ones, then the struct's own."""
    request, elsewhere = TABLES[table]
    required = {f.encode_name for f in msgspec.structs.fields(request) if f.required}
    known = elsewhere.__struct_encode_fields__ if elsewhere else ()
    policies = {name: p for name, p in policies_of(request).items() if name not in known}

    def order(name: str) -> tuple[int, bool, bool]:
        inherited = name not in request.__annotations__
        return _KINDS.index(policies[name].kind), name not in required, inherited

    return {name: policies[name] for name in sorted(policies, key=order)}


def _table(old: re.Match[str]) -> str:
    by_hand = {row["name"]: (row["example"], row["remark"]) for row in _ROW.finditer(old[0])}
    request = TABLES[old[1]][0]
    fields = {field.encode_name: field for field in msgspec.structs.fields(request)}
    lines = [f"<!-- fields: {old[1]} -->\n{_HEAD}"]
    for name, policy in policies_in(old[1]).items():
        field = fields[name]
        words = _words(inspect.type_info(field.type))
        takes = _refusal(policy) if policy.kind == "refused" else words
        if policy.kind == "ignored" and policy.instead:
            takes += f"; {policy.instead}"
        takes += ", required" if field.required else ""
        cells = (f"`{name}`", policy.kind, takes, *by_hand.get(name, ("``", "")))
        lines.append(f"| {' | '.join(cells)}".rstrip() + " |\n")
    return "".join(lines)


def _refusal(policy: FieldPolicy) -> str:
    """Return which values pass and what to send instead."""
    encoded = (msgspec.json.encode(value) for value in policy.neutral)
    values = " or ".join(f"`{msgspec.json.format(json, indent=0).decode()}`" for json in encoded)
    return "; ".join(part for part in (values and f"only {values}", policy.instead) if part)


def _words(kind: inspect.Type, s: str = "") -> str:
    """Return a type and its bounds in words; `s` is the ending of nouns."""
    words = "any JSON"
    match kind:
        case inspect.Metadata(type=inner):
            words = _words(inner, s)
        case inspect.UnionType(types=types):
            words = _union([inner for inner in types if not isinstance(inner, inspect.NoneType)], s)
        case inspect.IntType() | inspect.FloatType():
            name = "integer" if isinstance(kind, inspect.IntType) else "number"
            words = name + s + _bounds(kind.ge, kind.le, above=kind.gt)
        case inspect.StrType():
            words = f"text{s}{_bounds(kind.min_length, kind.max_length, 'characters')}"
        case inspect.ListType(item_type=item):
            count = _bounds(kind.min_length, kind.max_length, "items")
            words = f"list{s}{count} of {_words(item, 's')}"
        case inspect.LiteralType(values=values):
            words = ", ".join(f"`{value}`" for value in values)
        case inspect.BoolType():
            words = "true or false"
        case inspect.DictType() | inspect.StructType():
            words = f"object{s}"
    return words


def _union(kinds: list[inspect.Type], s: str) -> str:
    """Return alternatives; objects that differ in `type` are one of them."""
    structs = [kind for kind in kinds if isinstance(kind, inspect.StructType)]
    words = [_words(kind, s) for kind in kinds if not isinstance(kind, inspect.StructType)]
    tags = [f"`{kind.tag}`" for kind in structs if kind.tag is not None]
    if structs:
        words.append(f"object{s}" + (f" of type {', '.join(tags)}" if tags else ""))
    return " or ".join(words)


def _bounds(
    least: float | None, most: float | None, unit: str = "", *, above: float | None = None
) -> str:
    """Return bounds in parentheses; "" for none."""
    low = None if least is None or abs(least) >= _UNBOUNDED else f"at least {least}"
    high = None if most is None or abs(most) >= _UNBOUNDED else f"at most {most}"
    low = low if above is None else f"above {above}"
    if least == 1 and unit and not high:
        return " (not empty)"
    if low and high and above is None:
        low, high = None, f"{least} to {most}"
    words = ", ".join(filter(None, (low, high)))
    return f" ({words}{unit and f' {unit}'})" if words else ""


if __name__ == "__main__":
    for path in PAGES.glob("api*.md"):
        path.write_text(rendered(path.read_text(encoding="utf-8")), encoding="utf-8")
    clients = clients_in((PAGES / "clients.md").read_text(encoding="utf-8"))
    CLIENTS.write_text(clients, encoding="utf-8")
