"""Every field of a Messages request is handled as its documentation says."""

import json

import pytest

from tests.frontend.apis.documented import tables
from vgate.errors import UnsupportedParameterError
from vgate.frontend.apis.anthropic.messages.request import MessagesRequest, decode_messages
from vgate.frontend.apis.anthropic.messages.translate import generation_of
from vgate.frontend.http import Ignored

MINIMAL = {"model": "m", "max_tokens": 5, "messages": [{"role": "user", "content": "Hi"}]}


ROWS = {row.name: (row.kind, row.example) for row in tables()["messages"]}


def test_the_table_lists_every_field():
    assert set(ROWS) == set(MessagesRequest.__struct_fields__)


@pytest.mark.parametrize("name", ROWS)
def test_a_field_behaves_as_the_table_says(name):
    kind, example = ROWS[name]
    fields = {**MINIMAL, name: example}
    if name == "tool_choice":
        fields["tools"] = ROWS["tools"][1]
    body = json.dumps(fields).encode()
    if kind == "refused":
        with pytest.raises(UnsupportedParameterError, match=f"`{name}`") as caught:
            decode_messages(body, Ignored())
        assert caught.value.param == name
        return
    ignored = Ignored()
    request = decode_messages(body, ignored)
    assert getattr(request, name) is not None
    assert ignored.names == ([name] if kind == "ignored" else [])
    generation = generation_of(request)
    if kind in {"accepted", "ignored"}:
        assert generation == generation_of(decode_messages(json.dumps(MINIMAL).encode(), Ignored()))
    else:
        assert kind == "served"
