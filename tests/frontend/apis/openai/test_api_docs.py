"""docs/api.md says of every field what becomes of it, and it is so."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from vgate.errors import UnsupportedParameterError
from vgate.frontend.apis.openai.chat.request import ChatRequest, decode_chat, shaping_fields
from vgate.frontend.apis.openai.completions.request import CompletionRequest, decode_completion
from vgate.frontend.apis.openai.generation_request import ACCEPTED, REFUSED

DOCUMENT = Path(__file__).parents[4] / "docs" / "api.md"
ROW = re.compile(r"\| `(?P<name>\w+)` \| (?P<kind>\w+) \| `(?P<example>[^`]*)` \|")

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION = {"model": "m", "prompt": "Hi"}
# What a field can't be without.
COMPANIONS: dict[str, dict[str, Any]] = {
    "stream_options": {"stream": True},
    "truncation_side": {"truncate_prompt_tokens": 5},
    "top_logprobs": {"logprobs": True},
    "tool_choice": {"tools": [{"type": "function", "function": {"name": "f"}}]},
}


class Row(NamedTuple):
    section: str
    name: str
    kind: str
    example: Any


def rows() -> list[Row]:
    found = []
    section = ""
    for line in DOCUMENT.read_text(encoding="utf-8").splitlines():
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("| `"):
            match = ROW.match(line)
            assert match, f"not a row: {line}"
            found.append(Row(section, match["name"], match["kind"], json.loads(match["example"])))
    return found


def of_api(api: str) -> dict[str, Row]:
    sections = {"Chat completions and completions", f"{api} only"}
    return {row.name: row for row in rows() if row.section in sections}


APIS = {
    "Chat completions": (ChatRequest, decode_chat, CHAT),
    "Completions": (CompletionRequest, decode_completion, COMPLETION),
}
CASES = [
    pytest.param(api, row, id=f"{api}-{row.name}") for api in APIS for row in of_api(api).values()
]


@pytest.mark.parametrize("api", APIS)
def test_the_tables_have_the_fields_of_the_code(api):
    struct = APIS[api][0]
    assert set(of_api(api)) == set(struct.__struct_fields__)


def test_every_field_is_there_once():
    names = [(row.section, row.name) for row in rows()]
    assert len(names) == len(set(names)) > 80


@pytest.mark.parametrize(("api", "row"), CASES)
def test_a_field_is_what_the_table_says(api, row):
    _, decode, minimal = APIS[api]
    body = json.dumps({**minimal, **COMPANIONS.get(row.name, {}), row.name: row.example}).encode()
    if row.kind == "refused":
        assert row.name in REFUSED
        with pytest.raises(UnsupportedParameterError) as caught:
            decode(body)
        assert caught.value.param == row.name
        assert f"`{row.name}`" in caught.value.message
        return
    request = decode(body)
    assert getattr(request, row.name) is not None
    assert (row.name in ACCEPTED) == (row.kind == "accepted")
    if row.kind == "accepted":
        # It has no effect: an answer from the cache serves the request as well.
        assert shaping_fields(request) == shaping_fields(decode(json.dumps(minimal).encode()))
    else:
        assert row.kind == "served"
