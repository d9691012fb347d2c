"""A long body, which is decoded in pieces, is the request or the error that a short one is."""

import json
import threading
import tracemalloc

import msgspec
import pytest

from bench.neighbour.bodies import CHAT
from tests.frontend.gateway import post
from vgate.config.model import Model
from vgate.errors import InvalidRequestError
from vgate.frontend.apis import decoding
from vgate.frontend.apis.anthropic.messages.request import decode_messages
from vgate.frontend.apis.decoding import decode_request
from vgate.frontend.apis.openai.chat.request import decode_chat
from vgate.frontend.apis.openai.completions.request import decode_completion
from vgate.frontend.apis.openai.responses.request import decode_responses
from vgate.frontend.apis.openai.tokenize import decode_tokenize
from vgate.frontend.apis.shared import arguments_of
from vgate.frontend.http import Ignored, json_pieces

TEXT = 'a\n"é😀\\' * 9
USER = {"role": "user", "content": TEXT}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"a": [1.5, 2, {"b": None}]}}}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1e300}'}}
DECODERS = {
    decode_chat: [
        {"messages": [USER, {"role": "assistant", "tool_calls": [CALL]}], "tools": [TOOL]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": TEXT}] * 3}]},
        {"messages": [USER], "logit_bias": {"1": 2, "33": -1.5}, "seed": 3, "stop": [TEXT]},
        {"messages": [USER], "n": 2.0, "temperature": "0.5", "max_tokens": 5.0, "unknown": [TEXT]},
        {"messages": [USER], "chat_template_kwargs": {"a": {"b": [1, TEXT]}, "big": 2**63}},
        {"messages": [USER, {"role": TEXT}]},
        {"messages": [USER, {"role": "user", "content": 5}]},
        {"messages": [USER], "n": 1.5},
        {"messages": [USER], "logit_bias": {"x": 1}},
        {"messages": [USER], "stop": [TEXT * 99]},
        {"messages": [USER], "temperature": [TEXT]},
        {"model": 5, "messages": [USER]},
        {"n": 1},
        [USER],
    ],
    decode_responses: [
        {"input": TEXT, "tools": [{"type": "function", "name": "f", "parameters": {"a": TEXT}}]},
        {
            "input": [USER, {"type": "message", "role": "user", "content": TEXT}],
            "truncation": "auto",
        },
        {
            "input": TEXT,
            "text": {"format": {"type": "json_schema", "name": "a", "schema": {"a": 1}}},
        },
        {"input": {"b": TEXT}},
    ],
    decode_completion: [
        {"prompt": [[1, 2, 3], [4, 5]], "echo": True},
        {"prompt": [TEXT, TEXT], "logit_bias": {"5": 1}},
        {"prompt": [1.0, 2.0]},
        {"prompt": [TEXT, 1]},
    ],
    decode_messages: [
        {"messages": [USER], "max_tokens": 9, "system": [{"type": "text", "text": TEXT}]},
        {"messages": [USER], "max_tokens": 9, "tools": [{"type": "web", "name": TEXT}]},
        {"messages": [{"role": "user", "content": [{"type": "image", "source": TEXT}]}]},
    ],
    decode_tokenize: [
        {"prompt": TEXT, "add_special_tokens": False},
        {"messages": [USER], "return_token_strs": True},
        {"messages": 5},
    ],
}
CASES = [(decode, document) for decode, documents in DECODERS.items() for document in documents]


@pytest.fixture
def in_pieces(monkeypatch):
    """Return what makes bodies costly, from then on, and cuts them every few bytes."""

    def begin():
        for module in (json_pieces, decoding):
            monkeypatch.setattr(module, "is_costly", lambda _: True)
        monkeypatch.setattr(json_pieces, "_PIECE_BYTES", 7)
        monkeypatch.setattr(json_pieces, "_SLICE_BYTES", 32)

    return begin


def outcome(decode, body):
    ignored = Ignored()
    try:
        return decode(body, ignored), ignored.names
    except InvalidRequestError as error:
        return type(error), str(error), error.param, error.code


@pytest.mark.parametrize(("decode", "document"), CASES)
@pytest.mark.parametrize("escaped", [True, False])
def test_requests_and_errors_are_the_same(in_pieces, decode, document, escaped):
    body = json.dumps(document, ensure_ascii=escaped).encode()
    expected = outcome(decode, body)
    in_pieces()
    assert outcome(decode, body) == expected


@pytest.mark.parametrize(
    "body",
    [b'{"messages": [', b'{"messages": [}', b'{"messages": ["\xff"]}', b'{"model": 5, "n": ', b""],
)
def test_what_is_no_json_is_told_in_the_same_words(in_pieces, body):
    kind, _, *expected = outcome(decode_chat, body)
    in_pieces()
    told = outcome(decode_chat, body)
    assert [told[0], *told[2:]] == [kind, *expected]


def test_a_byte_order_mark_is_left_out(in_pieces):
    body = b"\xef\xbb\xbf" + json.dumps({"messages": [USER]}).encode()
    expected = outcome(decode_chat, body)
    in_pieces()
    assert outcome(decode_chat, body) == expected


def test_a_number_that_is_too_large_is_refused(in_pieces):
    in_pieces()
    refused = outcome(decode_chat, b'{"messages": [], "metadata": {"a": 1e999}}')
    assert "number out of range" in refused[1]


def test_arguments_are_read_in_pieces(in_pieces):
    texts = [
        "",
        " ",
        "{}",
        '{"a": [1, "\\ud83d\\ude00"]}',
        "[1]",
        "5",
        '{"a"',
        '"\\ud800"',
        "\ud800",
    ]
    expected = list(map(arguments_of, texts))
    in_pieces()
    assert list(map(arguments_of, texts)) == expected


@pytest.mark.parametrize(
    ("task", "body"),
    [("generate", {"messages": [USER], "max_tokens": 2}), ("embed", {"input": [TEXT]})],
)
def test_long_invocations_are_answered(serve, in_pieces, task, body):
    in_pieces()

    async def scenario(gateway):
        answer = await post(gateway, "/invocations", body)
        assert answer.status == 200, answer.body

    serve(scenario, model=Model(task=task))


@pytest.mark.parametrize("fields", decoding.RawFields.__subclasses__())
def test_what_is_decoded_at_once_makes_little_of_any_body(fields):
    body = json.dumps({f"k{number}": [TEXT, {}] for number in range(20_000)}).encode()
    decoder = msgspec.json.Decoder(fields)
    tracemalloc.start()
    try:
        decode_request(decoder, body, Ignored())
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < len(body) / 100


NUMBERS = "[" + "1e300," * 9_000 + "1]"


@pytest.mark.parametrize("name", ["unknown", "chat_template_kwargs"])
def test_a_short_body_of_slow_numbers_is_read_on_a_thread(serve, monkeypatch, name):
    threads, decoded = [], json_pieces._Pieces.decoded

    def recorded(pieces):
        threads.append(threading.current_thread())
        return decoded(pieces)

    monkeypatch.setattr(json_pieces._Pieces, "decoded", recorded)

    async def scenario(gateway):
        fields = f'"messages": [{{"role": "user", "content": "a"}}], "{name}": {{"a": {NUMBERS}}}'
        answer = await post(gateway, CHAT, b"{%b}" % fields.encode())
        assert answer.status == 200
        assert threads
        assert threading.main_thread() not in threads

    serve(scenario)
