"""Bad input, by mistake or on purpose, gets the right 4xx in OpenAI's format and does no harm."""

import asyncio
import json
import socket
import time

import httpx
import openai
import pytest

from tests.e2e.instance import Instance, wait_until
from tests.e2e.keep_alive import Client, http_request, json_post
from tests.e2e.traffic import CHAT, MODEL, EngineProbe, chat, endless, post, raw, status_of

HELLO = json.dumps(chat("hi")).encode()
NESTED = b"[" * 40_000 + b"]" * 40_000
MIB = 1024 * 1024


@pytest.fixture(scope="module")
def client(dry_run: Instance):
    with dry_run.client() as client:
        yield client


def check_error(response: httpx.Response, status: int, code: str, param: str | None) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"]
    body = response.json()
    assert set(body) == {"error", "detail"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["detail"] == body["error"]["message"]
    assert body["error"]["type"] == "invalid_request_error"
    assert (body["error"]["code"], body["error"]["param"]) == (code, param)


BAD_FIELDS = [
    ({"model": 5}, "invalid_value", "model"),
    ({"messages": []}, "invalid_value", "messages"),
    ({"messages": "hi"}, "invalid_value", "messages"),
    ({"messages": [{}]}, "invalid_value", "messages[0].role"),
    ({"messages": [{"role": "", "content": ""}]}, "invalid_value", "messages[0].role"),
    ({"messages": [{"role": "user", "content": 1}]}, "invalid_value", "messages[0].content"),
    (
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        "unsupported_parameter",
        "messages[0].content[0].type",
    ),
    ({"temperature": -3}, "invalid_value", "temperature"),
    ({"temperature": "hot"}, "invalid_value", "temperature"),
    ({"max_tokens": 0}, "invalid_value", "max_tokens"),
    ({"max_tokens": 1.5}, "invalid_value", "max_tokens"),
    ({"min_tokens": 10**30}, "invalid_value", "min_tokens"),
    ({"min_tokens": 100_000}, "invalid_value", "min_tokens"),
    ({"min_tokens": 9, "max_tokens": 8}, "invalid_value", "min_tokens"),
    ({"top_k": 10**30}, "invalid_value", "top_k"),
    ({"seed": 2**63}, "invalid_value", "seed"),
    ({"n": 0}, "invalid_value", "n"),
    ({"n": 129}, "invalid_value", "n"),
    ({"stop": ""}, "invalid_value", "stop"),
    ({"stop": ["a"] * 17}, "invalid_value", "stop"),
    ({"stream": "yes"}, "invalid_value", "stream"),
    ({"stream_options": {"include_usage": True}}, "invalid_value", "stream_options"),
    ({"tools": [{"type": "function"}]}, "invalid_value", "tools[0].function"),
    ({"top_logprobs": 5}, "invalid_value", "top_logprobs"),
    ({"logit_bias": {"x": 1}}, "invalid_value", "logit_bias"),
    ({"response_format": {"type": "xml"}}, "invalid_value", "response_format.type"),
    ({"use_beam_search": True}, "unsupported_parameter", "use_beam_search"),
]


@pytest.mark.parametrize(("fields", "code", "param"), BAD_FIELDS)
def test_the_error_names_a_bad_field(dry_run: Instance, fields: dict, code: str, param: str):
    response = httpx.post(dry_run.url + CHAT, json=chat("hi") | fields)
    check_error(response, 400, code, param)


NONSENSE = {"type": "nonsense"}
TURNS = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 9}
TOOLS = [
    {"type": "function", "function": {"name": "e"}},
    {"type": "function", "function": {"name": "f", "parameters": NONSENSE}},
]
FORM = {"type": "json_schema", "json_schema": {"name": "n", "schema": NONSENSE}}
# Errors that only the engine can find, and the field that the client sent.
FOR_THE_ENGINE = [
    (CHAT, {**TURNS, "response_format": FORM}, "response_format"),
    (CHAT, {**TURNS, "structured_outputs": {"json": NONSENSE}}, "structured_outputs.json"),
    (CHAT, {**TURNS, "structured_outputs": {"regex": "x("}}, "structured_outputs.regex"),
    (CHAT, {**TURNS, "tools": TOOLS, "tool_choice": "required"}, "tools"),
    (
        CHAT,
        {**TURNS, "tools": TOOLS, "tool_choice": {"function": {"name": "f"}}},
        "tools[1].function.parameters",
    ),
    (
        "/v1/completions",
        {"prompt": "a", "structured_outputs": {"grammar": "root ::= x"}},
        "structured_outputs.grammar",
    ),
    (
        "/v1/responses",
        {
            "input": "hi",
            "text": {"format": {"type": "json_schema", "name": "n", "schema": NONSENSE}},
        },
        "text.format",
    ),
    (
        "/v1/responses",
        {"input": "hi", "structured_outputs": {"json": NONSENSE}},
        "structured_outputs.json",
    ),
    (
        "/v1/responses",
        {
            "input": "hi",
            "tools": [{"type": "function", "name": "f", "parameters": NONSENSE}],
            "tool_choice": {"type": "function", "name": "f"},
        },
        "tools[0].parameters",
    ),
]


@pytest.mark.parametrize(("path", "fields", "param"), FOR_THE_ENGINE)
def test_the_engines_refusal_names_the_field(
    dry_run: Instance, path: str, fields: dict, param: str
):
    for stream in (False, True):
        body = {"model": MODEL, "stream": stream, **fields}
        response = httpx.post(dry_run.url + path, json=body)
        assert response.status_code == 400
        error = response.json()["error"]
        assert error["param"] == param
        assert f"`{param}`" in error["message"]


def test_the_engines_refusal_names_the_field_of_the_messages_api(dry_run: Instance):
    form = {"type": "json_schema", "schema": NONSENSE}
    body = {"model": MODEL, **TURNS, "output_config": {"format": form}}
    response = httpx.post(dry_run.url + "/v1/messages", json=body)
    assert response.status_code == 400
    assert "`output_config.format`" in response.json()["error"]["message"]


BAD_BODIES = {
    "empty": (b"", "invalid_json", None),
    "cut": (HELLO[:-5], "invalid_json", None),
    "no object": (b"[]", "invalid_value", None),
    "nothing": (b"{}", "invalid_value", "messages"),
    "not a number": (HELLO[:-1] + b', "temperature": NaN}', "invalid_json", None),
    "number out of range": (
        HELLO[:-1] + b', "temperature": 1e999}',
        "invalid_value",
        "temperature",
    ),
    "5000 digits": (
        HELLO[:-1] + b', "max_tokens": %s}' % (b"1" * 5000),
        "invalid_value",
        "max_tokens",
    ),
    "bad UTF-8": (HELLO.replace(b"hi", b"\xff\xfe"), "invalid_json", None),
    "lone surrogate": (HELLO.replace(b"hi", b"\\ud800"), "invalid_json", None),
    "UTF-16": (json.dumps(chat("hi")).encode("utf-16"), "invalid_json", None),
    "nested": (HELLO[:-1] + b', "functions": %s}' % NESTED, "invalid_json", None),
    "wrong, then malformed": (b'{"model": 5,,,}', "invalid_value", "model"),
    "wrong, then bad UTF-8": (b'{"model": 5, "user": "\xff"}', "invalid_value", "model"),
    "wrong, then nested": (b'{"model": 5, "tools": %s}' % NESTED, "invalid_value", "model"),
    "unknown, then nested": (b'{"zzz": %s}' % NESTED, "invalid_json", None),
    "nested messages": (b'{"messages": %s' % NESTED, "invalid_value", "messages[0]"),
}


@pytest.mark.parametrize("name", BAD_BODIES)
def test_a_bad_body_is_explained(dry_run: Instance, name: str):
    body, code, param = BAD_BODIES[name]
    response = httpx.post(dry_run.url + CHAT, content=body)
    check_error(response, 400, code, param)


@pytest.mark.parametrize("depth", range(100, 1100, 100))
def test_depth_alone_never_causes_an_internal_error(dry_run: Instance, depth: int):
    nested = b"[" * depth + b"]" * depth
    for body in (b'{"model": %s}', HELLO[:-1] + b', "metadata": {"a": %s}}'):
        assert httpx.post(dry_run.url + CHAT, content=body % nested).status_code in {200, 400}


def test_the_last_of_two_fields_with_the_same_name_counts(dry_run: Instance):
    body = HELLO[:-1] + b', "max_tokens": 2, "max_tokens": 1}'
    answer = httpx.post(dry_run.url + CHAT, content=body).json()
    assert answer["choices"][0]["message"]["content"] == "h"


def test_a_prompt_too_long(dry_run: Instance, client: openai.OpenAI):
    response = httpx.post(dry_run.url + CHAT, json=chat("x" * 5000))
    check_error(response, 400, "context_length_exceeded", "messages")
    # Long enough to be tokenised on a thread.
    with pytest.raises(openai.BadRequestError, match=r"at least \d+ tokens") as refused:
        client.chat.completions.create(**chat("x" * 500_000))
    assert refused.value.code == "context_length_exceeded"


def test_the_official_client_raises_the_right_class(client: openai.OpenAI):
    create = client.chat.completions.create
    with pytest.raises(openai.BadRequestError, match="temperature") as refused:
        create(**chat("hi", temperature=-9))
    assert refused.value.type == "invalid_request_error"
    with pytest.raises(openai.NotFoundError):
        client.moderations.create(input="hi")
    with pytest.raises(openai.APIStatusError) as large:
        create(**chat("x" * 20_000_000))
    assert large.value.status_code == 413


def test_paths_and_methods(dry_run: Instance):
    check_error(httpx.get(dry_run.url + "/nowhere"), 404, "not_found", None)
    assert httpx.get(dry_run.url + "/v1/models/").status_code == 200
    assert httpx.post(dry_run.url + CHAT + "/", json=chat("hi")).status_code == 200
    for method, path, allowed in (("GET", CHAT, "POST"), ("DELETE", "/health", "GET")):
        response = httpx.request(method, dry_run.url + path)
        check_error(response, 405, "method_not_allowed", None)
        assert response.headers["allow"] == allowed


def test_large_bodies_are_refused_and_the_client_sees_it(dry_run: Instance):
    body = b"x" * (20 * MIB)
    check_error(httpx.post(dry_run.url + CHAT, content=body), 413, "payload_too_large", None)
    chunked = (body[:MIB] for _ in range(20))
    check_error(httpx.post(dry_run.url + CHAT, content=chunked), 413, "payload_too_large", None)


def test_a_body_beyond_the_limit_is_cut_off(dry_run: Instance):
    # What is declared is refused without reading it all; what isn't ends at some point.
    endless_body = b"100000\r\n" + b"x" * MIB + b"\r\n"
    head = (
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n" % CHAT.encode()
    )
    with socket.create_connection(("127.0.0.1", dry_run.port), timeout=20) as connection:
        connection.sendall(head)
        sent, cut = 0, False
        while sent < 512 and not cut:
            try:
                connection.sendall(endless_body)
            except OSError:
                cut = True
            sent += 1
    assert cut, "512 MiB were taken"


@pytest.mark.parametrize(
    "data",
    [
        b"\x00\x01\x02\xff garbage\r\n\r\n",
        bytes.fromhex("16030100a5010000a10303") + bytes(200),
        b"GET /\xe9 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        post(HELLO, b"Content-Length: 5"),
        post(HELLO, b"X-Long: " + b"x" * 2 * MIB),
        post(HELLO, *[b"X-%d: x" % n for n in range(1000)]),
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n" % CHAT.encode(),
        b"POST %s HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"
        % CHAT.encode(),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_bytes_that_are_not_http_are_refused(dry_run: Instance, data: bytes):
    response = raw(dry_run.port, data)
    assert not response or 400 <= status_of(response) < 500


@pytest.mark.parametrize("header", [b"X-Request-ID: \xe9\xff", b"X-Request-ID:", b"X: \xff"])
def test_odd_headers_do_no_harm(dry_run: Instance, header: bytes):
    assert status_of(raw(dry_run.port, post(HELLO, header))) == 200


def test_a_client_that_disconnects_during_its_request(dry_run: Instance):
    for head in (b"Content-Length: 1000\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n3e8\r\n"):
        request = b"POST %s HTTP/1.1\r\nHost: localhost\r\n%s" % (CHAT.encode(), head) + HELLO
        raw(dry_run.port, request, half_close=True)
        for end in (5, 30, len(request)):
            with socket.create_connection(("127.0.0.1", dry_run.port)) as connection:
                connection.sendall(request[:end])


CHUNK = b"%x\r\n%s\r\n" % (len(HELLO), HELLO)


@pytest.mark.parametrize(
    ("header", "sent"),
    [
        (b"Content-Length: %d" % (len(HELLO) + 10), HELLO),
        (b"Transfer-Encoding: chunked", CHUNK),
        (b"Transfer-Encoding: chunked", CHUNK[:-5]),
        (b"Transfer-Encoding: chunked", CHUNK + b"5\r\n"),
    ],
)
def test_a_body_that_ends_early_is_refused(dry_run: Instance, header: bytes, sent: bytes):
    head = b"POST %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n" % (CHAT.encode(), header)
    response = raw(dry_run.port, head + sent, half_close=True)
    assert status_of(response) == 400
    assert b"the request body is" in response


def test_a_slow_client_is_served(dry_run: Instance):
    request = post(HELLO)
    with socket.create_connection(("127.0.0.1", dry_run.port), timeout=10) as connection:
        for byte in request:
            connection.sendall(bytes([byte]))
            time.sleep(0.002)
        assert status_of(connection.recv(65536)) == 200


def test_pipelined_requests_are_answered_in_order(dry_run: Instance):
    requests = [
        post(json.dumps(chat(f"number {n}")).encode()).replace(b"Connection: close\r\n", b"")
        for n in range(5)
    ]
    response = raw(dry_run.port, b"".join(requests) + post(HELLO))
    assert response.count(b"HTTP/1.1 200 OK") == 6
    places = [response.index(b"number %d" % n) for n in range(5)]
    assert places == sorted(places)


def test_the_disconnect_of_a_pipelining_client_is_noticed(dry_run: Instance):
    """Unread bytes must not hide a disconnect."""
    with EngineProbe(dry_run.run_dir) as engine:
        engine.welcome()
        with socket.create_connection(("127.0.0.1", dry_run.port)) as connection:
            connection.sendall(post(json.dumps(endless(stream=True)).encode()) + post(HELLO))
            wait_until(lambda: engine.status().running, 10, "the first request runs")
        engine.wait_idle()


def test_serving_continued_and_no_problem_was_logged(dry_run: Instance, client: openai.OpenAI):
    assert client.chat.completions.create(**chat("still here")).choices[0].message.content
    assert dry_run.has_problem() is None


@pytest.mark.parametrize("length", [{}, {"transfer-encoding": "chunked"}])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("PUT", CHAT, 405), ("POST", "/nothing", 404), ("POST", "/v1/responses/r/cancel", 404)],
)
def test_an_unread_body_does_not_cost_the_connection(
    dry_run: Instance, method: str, path: str, status: int, length: dict[str, str]
):
    body = b"x" * MIB
    if length:
        body = b"%x\r\n%s\r\n0\r\n\r\n" % (MIB, body)

    async def ask() -> list[int]:
        with Client(dry_run.port) as client:
            requests = [http_request(method, path, body, length), json_post(CHAT, HELLO)] * 3
            return [(await client.send(request)).status for request in requests]

    assert asyncio.run(ask()) == [status, 200] * 3


def test_an_unneeded_body_is_not_requested(dry_run: Instance):
    head = (
        b"POST /nothing HTTP/1.1\r\nHost: localhost\r\n"
        b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n"
    )
    answer = raw(dry_run.port, head)
    assert status_of(answer) == 404
    assert b"connection: close" in answer.lower()
