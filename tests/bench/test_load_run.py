"""The load generator against a tiny server that gives good answers and every kind of bad one."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from bench.load import connection
from bench.load.__main__ import main
from bench.load.options import parse
from bench.load.run import run
from bench.load.summary import Summary, table

Body = dict[str, Any]


def event(content: str | None, finish_reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish_reason}
    return b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n"


def usage(tokens: int) -> bytes:
    counts = {"prompt_tokens": 5, "completion_tokens": tokens}
    return b"data: " + json.dumps({"choices": [], "usage": counts}).encode() + b"\n\n"


def streamed(body: Body) -> list[bytes]:
    """Return the pieces of a streamed answer; `fault` in the request says what is wrong."""
    tokens = body["max_tokens"]
    pieces = [event("")] + [event("ab")] * tokens + [event(None, "length"), usage(tokens)]
    done = b"data: [DONE]\n\n"
    broken = {
        "error": [*pieces[:2], b'data: {"error": {"message": "engine died"}}\n\n'],
        "json": [*pieces[:2], b"data: {\n\n", *pieces[2:], done],
        "unfinished": [*pieces[:-2], done],
        "no done": pieces,
        "short": [*pieces[:-1], usage(tokens - 1), done],
        "one piece": [b"".join([*pieces, done])],
    }
    return broken.get(body.get("fault", ""), [*pieces, done])


class TinyServer:
    """Just enough of HTTP/1.1 for what the load generator sends."""

    def __init__(self) -> None:
        self.connections = 0
        self.bodies: list[Body] = []
        self.heads: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while await self._exchange(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if head.startswith(b"GET /v1/models "):
            self._whole(writer, 200, {"data": [{"id": "tiny"}]})
            return True
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        body: Body = json.loads(await reader.readexactly(length))
        self.bodies.append(body)
        return await self._answer(body, writer)

    async def _answer(self, body: Body, writer: asyncio.StreamWriter) -> bool:
        fault = body.get("fault")
        if fault == "status":
            self._whole(writer, 429, {"error": {"message": "slow down"}})
        elif fault == "garbage":
            writer.write(b"not http\r\n\r\n")
        elif fault == "silent":
            await asyncio.sleep(3)
        elif not body.get("stream"):
            message = {"role": "assistant", "content": f"answer {len(self.bodies)}"}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            counts = {"prompt_tokens": 5, "completion_tokens": 4}
            self._whole(writer, 200, {"choices": [choice], "usage": counts})
        else:
            return await self._stream(body, writer)
        return True

    async def _stream(self, body: Body, writer: asyncio.StreamWriter) -> bool:
        fault = body.get("fault")
        until_close = fault == "until close"
        how = b"connection: close" if until_close else b"transfer-encoding: chunked"
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\n%b\r\n\r\n" % how)
        for number, piece in enumerate(streamed(body)):
            if fault == "cut" and number == 3:
                return False
            writer.write(piece if until_close else b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0.002)
        if not until_close:
            writer.write(b"0\r\n\r\n")
        return not until_close

    @staticmethod
    def _whole(writer: asyncio.StreamWriter, status: int, content: Body) -> None:
        body = json.dumps(content).encode()
        head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\n"
        writer.write(head.encode() + b"content-length: %d\r\n\r\n%b" % (len(body), body))


@asynccontextmanager
async def listening(server: TinyServer) -> AsyncIterator[str]:
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    async with listener:
        yield f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"


def load(arguments: str, server: TinyServer, **extra: object) -> Summary:
    """Run the load generator and the server in one event loop."""

    async def both() -> Summary:
        async with listening(server) as url:
            given = [url, "--quiet", "--max-tokens", "4", *arguments.split()]
            options, headers = parse([*given, "--extra", json.dumps(extra)])
            return await run(options, headers)

    return asyncio.run(both())


def test_a_closed_loop_counts_every_answer_on_kept_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "_MAX_IDLE_S", 600.0)  # however busy the machine is
    server = TinyServer()
    summary = load("--clients 3 --requests 12 --warmup 4 --check --ignore-eos", server)
    assert summary.all_complete
    assert (summary.completed, summary.output_tokens, summary.prompt_tokens) == (12, 48, 60)
    assert (summary.chunks, summary.model, summary.statuses) == (48, "tiny", {200: 12})
    times = summary.latency_ms
    assert times.ttft is not None
    assert times.itl is not None
    assert times.e2e is not None
    assert (times.ttft.count, times.itl.count, times.e2e.count) == (12, 36, 12)
    assert times.itl.p50 >= 1.5
    assert times.ttft.max < times.e2e.max
    assert server.connections == 3
    prompts = {body["messages"][0]["content"] for body in server.bodies}
    assert len(prompts) == 16  # those of the warm-up do not come again
    assert "12 complete, 0 failed" in table(summary)


def test_whole_answers_and_a_connection_for_each() -> None:
    server = TinyServer()
    summary = load("--no-stream --requests 5 --no-keepalive --endpoint completions", server)
    assert summary.all_complete
    assert summary.output_tokens == 20
    assert summary.latency_ms.ttft is None
    assert server.connections >= 6
    assert server.heads[-1].startswith(b"POST /v1/completions ")


def test_an_open_loop_counts_the_wait_for_a_place() -> None:
    server = TinyServer()
    summary = load("--rate 500 --requests 20 --uniform --max-in-flight 1", server)
    assert summary.all_complete
    times = summary.latency_ms
    assert times.ttft is not None
    assert times.send_lag is not None
    assert times.ttft.max > times.send_lag.max > 50
    assert server.connections == 1


def test_time_ends_a_run() -> None:
    summary = load("--clients 2 --seconds 0.2", TinyServer())
    assert summary.all_complete
    assert 0.2 <= summary.seconds < 1


@pytest.mark.parametrize("fault", ["until close", "one piece"])
def test_other_shapes_of_a_complete_stream_are_complete(fault: str) -> None:
    summary = load("--requests 3 --check --ignore-eos --expect-same", TinyServer(), fault=fault)
    assert summary.all_complete, summary.errors
    assert summary.chunks == 12


@pytest.mark.parametrize(
    ("fault", "kind", "first"),
    [
        ("status", "http_429", "slow down"),
        ("error", "error_event", "engine died"),
        ("json", "bad_json", "truncated"),
        ("unfinished", "incomplete", "0 of 1"),
        ("no done", "cut", "without [DONE]"),
        ("cut", "cut", "closed within"),
        ("garbage", "bad_http", ""),
        ("silent", "timeout", "0.3 s"),
        ("short", "check_usage", "3 completion tokens instead of 4"),
    ],
)
def test_every_fault_is_a_failure_of_its_kind(fault: str, kind: str, first: str) -> None:
    arguments = "--requests 2 --check --ignore-eos --timeout 0.3"
    summary = load(arguments, TinyServer(), fault=fault)
    assert not summary.all_complete
    assert summary.completed == summary.output_tokens == 0
    assert [(name, error.count) for name, error in summary.errors.items()] == [(kind, 2)]
    assert first in summary.errors[kind].first


def test_answers_that_differ_fail_where_they_must_be_the_same() -> None:
    summary = load("--no-stream --requests 3 --expect-same", TinyServer())
    assert (summary.completed, summary.errors["check_same"].count) == (1, 2)


@pytest.mark.parametrize(
    ("prompt", "arguments", "fails"),
    [
        ("ab", "--expect-echo --expect-chunks 4", None),
        ("aba", "--expect-echo", "check_echo"),
        ("ab", "--expect-chunks 5", "check_chunks"),
    ],
)
def test_an_echo_is_the_prompt_over_and_over(
    tmp_path: Path, prompt: str, arguments: str, fails: str | None
) -> None:
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"prompt": prompt}))
    summary = load(f"--requests 2 --prompts {prompts} {arguments}", TinyServer())
    assert list(summary.errors) == ([fails] if fails else [])


def test_a_target_that_is_not_there_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["http://127.0.0.1:9"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("bench.load: cannot connect to 127.0.0.1:9")
    assert captured.err.count("\n") == 1
