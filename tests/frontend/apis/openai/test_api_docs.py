"""docs/api.md says of every field what becomes of it, and it is so."""

import json
from typing import Any

import pytest

from tests.frontend.apis.documented import Row, tables
from vgate.errors import UnsupportedParameterError
from vgate.frontend.apis.fields import policies_of
from vgate.frontend.apis.openai.chat.request import ChatRequest, decode_chat
from vgate.frontend.apis.openai.chat.request import generation_of as of_chat
from vgate.frontend.apis.openai.completions.request import CompletionRequest, decode_completion
from vgate.frontend.apis.openai.completions.request import generation_of as of_completion
from vgate.frontend.apis.openai.embeddings import EmbeddingRequest, decode_embeddings
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline.generation import shape_of

CHAT = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
COMPLETION = {"model": "m", "prompt": "Hi"}
# What a field can't be without.
COMPANIONS: dict[str, dict[str, Any]] = {
    "stream_options": {"stream": True},
    "truncation_side": {"truncate_prompt_tokens": 5},
    "top_logprobs": {"logprobs": True},
    "tool_choice": {"tools": [{"type": "function", "function": {"name": "f"}}]},
}


def of_api(*names: str) -> dict[str, Row]:
    return {row.name: row for name in names for row in tables()[name]}


APIS = {
    "Chat completions": (ChatRequest, decode_chat, of_chat, CHAT),
    "Completions": (CompletionRequest, decode_completion, of_completion, COMPLETION),
}
ROWS = {
    "Chat completions": of_api("chat and completions", "chat"),
    "Completions": of_api("chat and completions", "completions"),
}
CASES = [
    pytest.param(api, row, id=f"{api}-{row.name}") for api in APIS for row in ROWS[api].values()
]


@pytest.mark.parametrize("api", APIS)
def test_the_tables_have_the_fields_of_the_code(api):
    assert set(ROWS[api]) == set(APIS[api][0].__struct_fields__)


@pytest.mark.parametrize(("api", "row"), CASES)
def test_a_field_is_what_the_table_says(api, row):
    struct, decode, generation_of, minimal = APIS[api]
    body = json.dumps({**minimal, **COMPANIONS.get(row.name, {}), row.name: row.example}).encode()
    assert row.kind == policies_of(struct)[row.name].kind
    if row.kind == "refused":
        with pytest.raises(UnsupportedParameterError) as caught:
            decode(body, Ignored())
        assert caught.value.param == row.name
        assert f"`{row.name}`" in caught.value.message
        return
    ignored = Ignored()
    request = decode(body, ignored)
    assert getattr(request, row.name) is not None
    assert ignored.names == ([row.name] if row.kind == "ignored" else [])
    if row.kind in {"accepted", "ignored"}:
        # It has no effect: an answer from the cache serves the request as well.
        without = generation_of(decode(json.dumps(minimal).encode(), Ignored()))
        assert shape_of(generation_of(request)) == shape_of(without)


@pytest.mark.parametrize("row", tables()["embeddings"], ids=lambda row: row.name)
def test_a_field_of_embeddings_is_what_the_table_says(row):
    # What the fields that say how base64 packs the numbers can't be without.
    minimal = {"model": "m", "input": "Hi", "encoding_format": "base64"}
    body = json.dumps({**minimal, row.name: row.example}).encode()
    if row.kind == "refused":
        with pytest.raises(UnsupportedParameterError) as caught:
            decode_embeddings(body, Ignored())
        assert caught.value.param == row.name
    else:
        assert getattr(decode_embeddings(body, Ignored()), row.name) == row.example
    assert row.kind == policies_of(EmbeddingRequest)[row.name].kind
