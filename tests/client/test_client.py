"""The client, against answers that a test writes: both kinds do the same."""

import asyncio
import json
import subprocess
import sys

import httpx2
import openai
import pytest

from vgate.client import AsyncClient, Client, NotReadyError, clients, events, http, settings

URL = "http://host:1/v1"
CHUNK = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": []}
ANSWER = {**CHUNK, "object": "chat.completion"}
ASK = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
OPEN = {"content-type": "text/event-stream", "x-vgate-resumable": "5"}


def numbered(count):
    """Return the events of a stream, as a server with ids sends them."""
    data = [json.dumps({**CHUNK, "model": f"é{number}"}) for number in range(1, count)]
    lines = [f"id: s:{n}\ndata: {text}\n\n" for n, text in enumerate([*data, "[DONE]"], 1)]
    return [line.encode() for line in lines]


class Body(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body that may break at its end."""

    def __init__(self, data, breaks=None):
        self._data, self._breaks = data, breaks

    def __iter__(self):
        for at in range(0, len(self._data), 7):
            yield self._data[at : at + 7]
        if self._breaks is not None:
            raise self._breaks

    async def __aiter__(self):
        for part in self:
            yield part


class Server:
    """Answers each request with the next of the answers, and notes the requests."""

    def __init__(self, *answers):
        self.answers = list(answers)
        self.requests = []

    def __call__(self, request):
        self.requests.append(request)
        answer = self.answers.pop(0)
        return answer(request) if callable(answer) else answer

    async def asynchronous(self, request):
        return self(request)


class Sync:
    """The client, whose methods return what the other one's coroutines do."""

    def __init__(self, server, retry_for_s=5.0, **options):
        transport = httpx2.MockTransport(server)
        options.setdefault("http_client", http.HttpClient(retry_for_s, transport=transport))
        self.client = Client(URL, "key", **options)

    def call(self, use):
        return use(self.client)

    def stream(self, **fields):
        with self.client.chat.completions.create(**ASK, stream=True, **fields) as stream:
            return [chunk.model for chunk in stream]


class Async:
    def __init__(self, server, retry_for_s=5.0, **options):
        transport = httpx2.MockTransport(server.asynchronous)
        options.setdefault("http_client", http.AsyncHttpClient(retry_for_s, transport=transport))
        self.client = AsyncClient(URL, "key", **options)

    def call(self, use):
        async def called():
            return await use(self.client)

        return asyncio.run(called())

    def stream(self, **fields):
        async def read():
            stream = await self.client.chat.completions.create(**ASK, stream=True, **fields)
            async with stream:
                return [chunk.model async for chunk in stream]

        return asyncio.run(read())


@pytest.fixture(params=[Sync, Async])
def make(request, monkeypatch):
    monkeypatch.setattr(clients, "_POLL_S", 0.01)
    monkeypatch.setattr(events, "_FIRST_PAUSE_S", 0.001)
    return request.param


def ok(**headers):
    return httpx2.Response(200, json=ANSWER, headers={"x-request-id": "r", **headers})


def opened(data, breaks=None, **headers):
    return httpx2.Response(200, headers={**OPEN, **headers}, stream=Body(data, breaks))


def rest(request):
    """Answer a request for the rest of the stream of `numbered(6)`."""
    assert request.method == "GET"
    assert request.headers["authorization"] == "Bearer key"
    assert not {"content-type", "content-length"} & set(request.headers)
    stream, _, number = request.headers["last-event-id"].partition(":")
    assert stream == "s"
    return opened(b"".join(numbered(6)[int(number) :]))


def test_a_stream_that_breaks_anywhere_is_whole(make):
    whole = b"".join(numbered(6))
    server = Server()
    made = make(server)
    for at in range(0, len(whole), 3):
        server.answers = [opened(whole[:at], httpx2.ReadError("cut")), httpx2.Response(502), rest]
        if at < len(numbered(6)[0]):
            # Nothing has come, so the request is sent again.
            server.answers[1:] = [opened(whole)]
        assert made.stream() == [f"é{number}" for number in range(1, 6)], at
    assert server.requests[0].headers["x-vgate-resumable"] == "true"


def test_a_stream_breaks_often_and_its_comments_have_no_number(make):
    parts = numbered(6)

    def again(request):
        number = int(request.headers["last-event-id"].partition(":")[2])
        # Either is a comment; OpenAI's client takes the first for an event without data.
        beats = b": keep-alive\n\n: keep-alive\n"
        return opened(beats + parts[number] + beats + b"id: s", httpx2.ReadTimeout("slow"))

    server = Server(opened(parts[0] + b": keep", httpx2.RemoteProtocolError("x")), *[again] * 5)
    assert len(make(server).stream()) == 5


@pytest.mark.parametrize(
    ("refusal", "requests"),
    [(lambda _request: httpx2.Response(404, json={"error": "no such stream"}), 2), (None, 1)],
)
def test_a_stream_that_can_t_go_on_breaks_as_ever(make, refusal, requests):
    event = numbered(6)[0]
    if refusal is None:
        event = event.partition(b"\n")[2]  # without an id, as from a cache
    server = Server(opened(event, httpx2.ReadError("cut")), refusal)
    with pytest.raises((openai.APIConnectionError, httpx2.ReadError)) as caught:
        make(server).stream()
    assert len(server.requests) == requests
    if refusal is not None:
        cause = caught.value.__cause__ or caught.value
        assert "no such stream" in cause.__notes__[0]


def test_nobody_goes_on_for_longer_than_the_server_keeps_the_stream(make):
    gone = [httpx2.Response(503)] * 100
    server = Server(
        opened(numbered(6)[0], httpx2.ReadError("cut"), **{"x-vgate-resumable": "0.5"}), *gone
    )
    with pytest.raises((openai.APIConnectionError, httpx2.ReadError)):
        make(server).stream()
    assert len(server.requests) > 2


def test_without_the_server_s_promise_or_the_client_s_wish_nothing_is_resumed(make):
    server = Server(
        httpx2.Response(
            200,
            headers={"content-type": "text/event-stream"},
            stream=Body(numbered(6)[0], httpx2.ReadError("cut")),
        )
    )
    made = make(server, resume=False)
    with pytest.raises((openai.APIConnectionError, httpx2.ReadError)):
        made.stream()
    assert server.requests[0].headers["x-vgate-resumable"] == "false"
    copy = made.client.with_cache("off")
    assert copy.default_headers["X-VGate-Resumable"] == "false"


def test_it_waits_as_often_as_the_server_asks_for_it(make):
    busy = [httpx2.Response(status, headers={"retry-after": "0.01"}) for status in (429, 503)]
    server = Server(*busy * 4, ok())
    made = make(server, max_retries=0)
    assert made.call(lambda client: client.chat.completions.create(**ASK)).id == "c"
    assert len(server.requests) == 9


def test_it_does_not_wait_beyond_its_time(make):
    server = Server(httpx2.Response(429, headers={"retry-after": "30"}, json={}))
    with pytest.raises(openai.RateLimitError):
        make(server).call(lambda client: client.chat.completions.create(**ASK))
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("mode", "control"), [("default", None), ("refresh", "no-cache"), ("off", "no-store")]
)
def test_the_use_of_the_cache(make, mode, control):
    server = Server(ok(**{"x-vgate-cache": "hit"}), ok(), ok())
    made = make(server, cache=mode)
    answer = made.call(lambda client: client.chat.completions.create(**ASK))
    assert server.requests[0].headers.get("cache-control") == control
    assert made.client.cache_status(answer) == "hit"
    made.call(lambda client: client.with_cache("off").chat.completions.create(**ASK))
    made.call(lambda c: c.with_cache("off").with_cache("default").chat.completions.create(**ASK))
    controls = [request.headers.get("cache-control") for request in server.requests[1:]]
    assert controls == ["no-store", ""]
    with pytest.raises(ValueError, match="refresh"):
        made.client.with_cache("never")


def test_the_cache_s_status_of_raw_answers_and_streams(make):
    server = Server(ok(**{"x-vgate-cache": "miss"}), opened(b"", **{"x-vgate-cache": "coalesced"}))
    made = make(server)
    raw = made.call(lambda client: client.chat.completions.with_raw_response.create(**ASK))
    assert made.client.cache_status(raw) == "miss"
    stream = made.call(lambda client: client.chat.completions.create(**ASK, stream=True))
    assert made.client.cache_status(stream) == "coalesced"
    assert made.client.cache_status(object()) is None


def test_usage_and_stats(make):
    rows = [{"key": "a", "requests": 3}]
    server = Server(
        httpx2.Response(200, json={"object": "list", "data": rows}),
        httpx2.Response(200, json={"requests": 5}),
    )
    made = make(server)
    assert made.call(lambda client: client.usage(by="key", since="2026-01-31")) == rows
    assert made.call(lambda client: client.stats()) == {"requests": 5}
    urls = [str(request.url) for request in server.requests]
    assert urls == [f"{URL}/usage?by=key&since=2026-01-31", "http://host:1/stats"]


def test_ready_waits_and_says_why(make):
    def refused(request):
        raise httpx2.ConnectError("refused")

    loading = httpx2.Response(503, json={"reason": "the model is loading"})
    server = Server(refused, loading, loading, httpx2.Response(502), httpx2.Response(200))
    shown = []
    assert make(server).call(lambda client: client.ready(5, show=shown.append)) is None
    assert shown == [
        "http://host:1/ready can't be reached: refused",
        "the model is loading",
        "the server answers 502",
    ]
    # With the key the server names what the key may use.
    assert {request.headers["authorization"] for request in server.requests} == {"Bearer key"}
    server = Server(*[loading] * 100)
    with pytest.raises(NotReadyError, match=r"not ready after 0\.05 s: the model is loading"):
        make(server).call(lambda client: client.ready(0.05))


@pytest.mark.parametrize(
    ("given", "environ", "expected"),
    [
        (None, {}, "http://127.0.0.1:8000/v1"),
        (None, {"OPENAI_BASE_URL": "http://b:2/v1"}, "http://b:2/v1"),
        (None, {"OPENAI_BASE_URL": "http://b", "VGATE_BASE_URL": "http://a:1/"}, "http://a:1/v1"),
        ("https://c/prefix/v1", {"VGATE_BASE_URL": "http://a"}, "https://c/prefix/v1"),
    ],
)
def test_the_address(given, environ, expected):
    assert settings.base_url(given, environ) == expected


def test_the_key(monkeypatch):
    assert settings.api_key(None, {}) == "unused"
    assert settings.api_key(None, {"OPENAI_API_KEY": "o"}) == "o"
    assert settings.api_key(None, {"OPENAI_API_KEY": "o", "VGATE_API_KEY": "v"}) == "v"
    assert settings.api_key("given", {"VGATE_API_KEY": "v"}) == "given"
    monkeypatch.setenv("VGATE_BASE_URL", "http://a:1")
    monkeypatch.setenv("VGATE_API_KEY", "v")
    client = Client()
    assert (str(client.base_url), client.api_key) == ("http://a:1/v1/", "v")


@pytest.mark.parametrize("text", [None, "", "soon", "-1", "inf", "Wed, 21 Oct 2026 07:28:00 GMT"])
def test_only_seconds_are_waited_for(text):
    headers = {} if text is None else {"retry-after": text}
    assert events.wait_s(503, headers) is None
    assert events.wait_s(503, {"retry-after": "1.5"}) == 1.5
    assert events.wait_s(500, {"retry-after": "1.5"}) is None


def test_it_loads_nothing_of_the_server_and_says_what_it_needs():
    code = (
        "import sys, vgate.client; print([m for m in sys.modules if m.startswith("
        "('vgate.', 'granian', 'zmq')) and not m.startswith('vgate.client')])"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
    code = "import sys; sys.modules['openai'] = None; import vgate.client"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, check=False, text=True)
    assert "pip install 'vgate[client]'" in result.stderr
