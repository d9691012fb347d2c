"""Streams that have nothing to send are kept open, and only those."""

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from tests.frontend.answers.test_garbage import leaves_nothing
from tests.frontend.gateway import Gateway, Protocol, chat_body, until
from vgate.config.schema import Batch, Cache, DryRun, Server, Timeouts
from vgate.frontend.answers import keep_alive
from vgate.frontend.answers.keep_alive import KeepAlive

COMMENT = b": keep-alive\n\n"
PING = b'event: ping\ndata: {"type": "ping"}\n\n'
PATHS = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}
SHORT = Server(stream_keepalive_s=0.02)
# Several intervals for each token.
SLOW = DryRun(step_ms=100, prefill_tokens_per_s=1e9)
# One runs, all others wait in the queue.
ONE = {"batch": Batch(max_num_seqs=1), "dry_run": DryRun(step_ms=5, prefill_tokens_per_s=1e9)}


def body_of(gateway: Gateway, api: str, **fields: Any) -> bytes:
    """Return the body of a streamed request."""
    body = json.loads(chat_body(gateway, "Hello!", stream=True, **fields))
    if api in {"completions", "responses"}:
        body["prompt" if api == "completions" else "input"] = "Hello!"
        del body["messages"]
    body["max_output_tokens" if api == "responses" else "max_tokens"] = 3
    return json.dumps(body).encode()


def begin(gateway: Gateway, api: str, **fields: Any) -> tuple[Protocol, asyncio.Task[None]]:
    return gateway.begin("POST", PATHS[api], body_of(gateway, api, **fields))


def kept_alive_by(api: str) -> bytes:
    return PING if api == "messages" else COMMENT


async def occupy(gateway: Gateway) -> asyncio.Task[None]:
    """Let a request have the engine for itself."""
    running, task = gateway.begin_chat(stream=True, max_tokens=2000, ignore_eos=True)
    await until(lambda: running.parts, "it runs")
    return task


async def until_opened(protocol: Protocol, api: str) -> None:
    """Wait until a stream was kept alive several times."""
    await until(lambda: protocol.body.count(kept_alive_by(api)) > 2, "it is kept alive")


def shape_of(stream: bytes, kept_alive: bytes) -> list[tuple[str, ...]]:
    """Return each event's lines, without what differs in each answer: the keys of its data only."""
    found = []
    for block in stream.replace(kept_alive, b"").decode().removesuffix("\n\n").split("\n\n"):
        *named, data = block.split("\n")
        assert data.startswith("data: ")
        text = data.removeprefix("data: ")
        found.append((*named, *([text] if text == "[DONE]" else sorted(json.loads(text)))))
    return found


class Stream:
    """Stands for a streamed answer."""

    def __init__(self) -> None:
        self.quiet = True
        self.kept_alive = 0

    def was_quiet(self) -> bool:
        was, self.quiet = self.quiet, True
        return was

    def keep_alive(self) -> None:
        self.kept_alive += 1


class Timer:
    """A loop's timer, and a clock, that the test turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.waiting: list[Any] = []
        monkeypatch.setattr(keep_alive, "time", SimpleNamespace(monotonic=lambda: self.now))

    def call_later(self, _delay_s: float, callback: Any) -> object:
        self.waiting.append(callback)
        return object()

    def turn(self, seconds: float) -> None:
        for _ in range(round(seconds)):
            self.now += 1
            callbacks, self.waiting = self.waiting, []
            for callback in callbacks:
                callback()


class TestSweeps:
    @pytest.fixture
    def timer(self, monkeypatch):
        return Timer(monkeypatch)

    def test_a_quiet_stream_is_kept_alive_every_interval(self, timer):
        kept, stream = KeepAlive(timer, 15), Stream()
        kept.add(stream, timer.now)
        timer.turn(14)
        assert stream.kept_alive == 0
        timer.turn(1)
        assert stream.kept_alive == 1
        timer.turn(30)
        assert stream.kept_alive == 3

    def test_it_counts_from_the_request_s_arrival(self, timer):
        kept, stream = KeepAlive(timer, 15), Stream()
        kept.add(stream, timer.now - 12)
        timer.turn(3)
        assert stream.kept_alive == 1

    def test_a_stream_that_writes_is_left_alone(self, timer):
        kept, busy, quiet = KeepAlive(timer, 15), Stream(), Stream()
        kept.add(busy, timer.now)
        kept.add(quiet, timer.now)
        for _ in range(6):
            busy.quiet = False
            timer.turn(10)
        assert busy.kept_alive == 0
        assert quiet.kept_alive == 4

    def test_it_sweeps_only_while_there_are_streams(self, timer):
        kept, stream = KeepAlive(timer, 15), Stream()
        assert not timer.waiting
        kept.add(stream, timer.now)
        kept.add(Stream(), timer.now)
        assert len(timer.waiting) == 1
        timer.turn(2)
        kept.discard(stream)
        for other in list(kept._due):
            kept.discard(other)
        timer.turn(1)
        assert not timer.waiting
        kept.add(stream, timer.now)
        timer.turn(15)
        assert stream.kept_alive == 1

    def test_it_can_be_turned_off(self, timer):
        kept, stream = KeepAlive(timer, 0), Stream()
        kept.add(stream, timer.now)
        assert not timer.waiting
        kept.discard(stream)


@pytest.mark.parametrize("api", PATHS)
class TestEveryApi:
    def test_a_slow_stream_is_kept_alive_and_otherwise_the_same(self, serve, api):
        streams = {}

        async def scenario(gateway: Gateway) -> None:
            protocol, task = begin(gateway, api)
            await task
            assert protocol.status == 200
            streams[gateway.config.server.stream_keepalive_s] = protocol

        serve(scenario, server=Server(stream_keepalive_s=0), dry_run=SLOW)
        serve(scenario, server=SHORT, dry_run=SLOW)
        plain, kept = streams[0], streams[SHORT.stream_keepalive_s]
        event = kept_alive_by(api)
        assert event not in plain.body
        # Before the first token, and between others.
        assert kept.parts[0].endswith(event)
        assert kept.parts[1] == event
        last_kept = max(n for n, part in enumerate(kept.parts) if part == event)
        assert any(part != event for part in kept.parts[1:last_kept])
        assert shape_of(kept.body, event) == shape_of(plain.body, event)
        assert plain.headers.keys() == kept.headers.keys()

    def test_it_begins_as_the_api_s_streams_do(self, serve, api):
        first = {"responses": b"event: response.created\n", "messages": b"event: message_start\n"}

        async def scenario(gateway: Gateway) -> None:
            task = await occupy(gateway)
            protocol, waiting = begin(gateway, api)
            await until_opened(protocol, api)
            assert protocol.body.startswith(first.get(api, COMMENT))
            gateway.app.draining.end_requests()
            await asyncio.gather(task, waiting)

        serve(scenario, server=SHORT, **ONE)

    def test_an_error_is_a_status_before_and_an_event_after(self, serve, api):
        async def scenario(gateway: Gateway) -> None:
            task = await occupy(gateway)
            protocol, waiting = begin(gateway, api)
            if gateway.config.server.stream_keepalive_s:
                await until_opened(protocol, api)
                gateway.app.draining.end_requests()
                await waiting
                assert protocol.status == 200
                last = protocol.body.removesuffix(b"\n\n").split(b"\n\n")[-1].decode()
                data = json.loads(last.split("data: ", 1)[1])
                assert "shutting down" in json.dumps(data)
                assert "error" in last
            else:
                await until(lambda: protocol.disconnected, "it waits")
                gateway.app.draining.end_requests()
                await waiting
                assert protocol.status == 503
            ended = len(protocol.parts)
            await asyncio.sleep(5 * SHORT.stream_keepalive_s)
            assert len(protocol.parts) == ended
            await task

        serve(scenario, server=SHORT, **ONE)
        serve(scenario, server=Server(stream_keepalive_s=0), **ONE)

    def test_a_client_that_leaves_ends_it(self, serve, api):
        async def scenario(gateway: Gateway) -> None:
            task = await occupy(gateway)

            async def ask() -> None:
                protocol, waiting = begin(gateway, api)
                await until_opened(protocol, api)
                (await until(lambda: protocol.disconnected, "it is watched")).set_result(None)
                await waiting
                ended = len(protocol.parts)
                await asyncio.sleep(3 * SHORT.stream_keepalive_s)
                assert len(protocol.parts) == ended

            await leaves_nothing(ask)
            gateway.app.draining.end_requests()
            await task

        serve(scenario, server=SHORT, **ONE)


def test_a_timeout_in_the_queue_is_an_event_of_an_open_stream(serve):
    async def scenario(gateway: Gateway) -> None:
        task = await occupy(gateway)
        protocol, waiting = begin(gateway, "chat")
        await waiting
        assert protocol.status == 200
        assert protocol.body.startswith(COMMENT)
        assert json.loads(protocol.events[-1])["error"]["code"] == "queue_timeout"
        gateway.app.draining.end_requests()
        await task

    serve(scenario, server=SHORT, timeouts=Timeouts(queue_s=0.3), **ONE)


def test_a_slow_stream_leaves_nothing(serve):
    async def scenario(gateway: Gateway) -> None:
        async def ask() -> None:
            protocol, task = begin(gateway, "chat")
            await task
            assert COMMENT in protocol.parts

        await leaves_nothing(ask)

    serve(scenario, server=SHORT, dry_run=DryRun(step_ms=40, prefill_tokens_per_s=1e9))


def test_an_answer_that_is_not_streamed_is_whole(serve):
    async def scenario(gateway: Gateway) -> None:
        answer = await gateway.chat(max_tokens=2)
        assert len(answer.parts) == 1
        assert answer.json["object"] == "chat.completion"

    serve(scenario, server=SHORT, dry_run=SLOW)


def test_a_stored_answer_and_one_that_is_shared(serve):
    async def scenario(gateway: Gateway) -> None:
        fields = {"stream": True, "max_tokens": 4, "temperature": 0}
        (first, one), (second, two) = (gateway.begin_chat(**fields) for _ in range(2))
        await asyncio.gather(one, two)
        for protocol in (first, second):
            assert protocol.events[-1] == "[DONE]"
            assert protocol.parts[0] == COMMENT
        stored = await gateway.chat(**fields)
        assert stored.headers["x-vgate-cache"] == "hit"
        assert COMMENT not in stored.body

    serve(scenario, server=SHORT, dry_run=SLOW, cache=Cache())
