"""`vgate bench`: what it measures of streams, what it counts as failed, and its verdict."""

import argparse
import asyncio
import json
import socketserver
import threading
import time
from collections import Counter

import pytest

from vgate.commands import bench
from vgate.commands.command import CommandError
from vgate.commands.load import Load, Measured, measure
from vgate.commands.server import Server, configure_server
from vgate.config import Config

CHUNK = {"choices": [{"delta": {"content": "two words"}}]}
USAGE = {"choices": [], "usage": {"completion_tokens": 6}}
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def event(data):
    return b"data: " + (data if isinstance(data, bytes) else json.dumps(data).encode()) + b"\n\n"


def chunked(body, size=7):
    """Cut a body into chunks of HTTP that keep to no border of an event."""
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


ANSWER = chunked(b": hi\n\n" + event(CHUNK) * 3 + event(USAGE) + event(b"[DONE]"))


@pytest.fixture
def served():
    """Answer each connection with the bytes that a test sets; keep the requests."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self):
            head = b""
            while not head.endswith(b"\r\n\r\n"):
                head += self.rfile.readline()
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            server.requests.append((head, json.loads(self.rfile.read(length))))
            time.sleep(0.01)
            self.wfile.write(server.answer)

    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        server.requests = []
        server.answer = HEAD + ANSWER
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def load(served, monkeypatch):
    """Put a short load on the server; return what was measured."""
    monkeypatch.delenv("VGATE_API_KEY", raising=False)
    parser = argparse.ArgumentParser()
    configure_server(parser)
    options = parser.parse_args(["--url", f"127.0.0.1:{served.server_address[1]}/base"])

    def run(seconds=0.3):
        """Take longer where the machine is too busy for two answers."""
        while True:
            wanted = Load("m", 2, seconds, 5, 6)
            measured = asyncio.run(measure(Server(options, Config()), wanted))
            if measured.complete >= 2 or measured.failures or seconds > 4:
                return measured
            seconds *= 4

    return run


def test_tokens_first_tokens_and_gaps_are_measured(served, load):
    measured = load()
    assert measured.complete >= 2
    assert not measured.failures
    assert len(measured.ttfts) >= measured.complete
    assert len(measured.gaps) >= 2 * measured.complete
    assert measured.chunks >= 3 * measured.complete
    # Each chunk has two tokens.
    assert measured.tokens_per_s == pytest.approx(measured.chunks * 2 / measured.seconds)
    assert min(measured.ttfts) >= 0.009
    assert measured.seconds >= 0.3


def test_requests_differ_and_bypass_the_cache(served, load):
    load()
    head, body = served.requests[0]
    assert head.startswith(b"POST /base/v1/chat/completions HTTP/1.1\r\n")
    assert b"\r\nCache-Control: no-store\r\n" in head
    assert (body["model"], body["max_tokens"], body["stream"]) == ("m", 6, True)
    prompts = {each["messages"][0]["content"] for _, each in served.requests}
    assert len(prompts) == len(served.requests)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (
            HEAD + chunked(event(CHUNK) + event({"error": {"message": "engine lost"}})),
            "engine lost",
        ),
        (HEAD + chunked(event(CHUNK)), "the answer was cut off after"),
        (HEAD + chunked(event(CHUNK))[:9], "bytes"),
        (b"", "the connection ended before the answer"),
        (b"SSH-2.0\r\n", "no HTTP"),
        (
            b'HTTP/1.1 429 Slow\r\n\r\n{"error": {"message": "60 a minute"}}',
            "429 Slow: 60 a minute",
        ),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n<html>", "502 Bad Gateway"),
    ],
)
def test_what_is_no_whole_answer_has_failed(served, load, answer, told):
    served.answer = answer
    measured = load()
    assert measured.complete == 0
    assert measured.failures
    assert all(told in failure for failure in measured.failures)


def test_a_body_without_chunks_is_read_too(served, load):
    served.answer = b"HTTP/1.1 200 OK\r\n\r\n" + event(CHUNK) + event(USAGE) + event(b"[DONE]")
    assert load().complete


def test_requests_that_are_refused_for_good_end_it(served, load):
    served.answer = b'HTTP/1.1 400 Bad\r\n\r\n{"error": {"message": "too large"}}'
    began = time.monotonic()
    with pytest.raises(CommandError, match="refuses such requests, 400 Bad: too large"):
        load(seconds=300)
    assert time.monotonic() - began < 100


def measured(clients, ttft_s, gap_s, **fields):
    load = Load("m", clients, 10, 100, 128)
    given = {"seconds": 10.0, "complete": 5, "chunks": clients * 100, **fields}
    return Measured(load, ttfts=[ttft_s] * 5, gaps=[gap_s] * 50, **given)


def judged(*results):
    good = [bench.meets(one, 2.0, 0.1) for one in results]
    return good, bench.report(results, good, 2.0, 0.1)


def test_the_verdict_names_the_most_clients_that_are_served_well():
    results = [measured(1, 0.1, 0.01), measured(8, 0.4, 0.05), measured(64, 5.0, 0.3)]
    good, lines = judged(*results)
    assert good == [True, True, False]
    assert " ".join(lines[2].split()) == "8 5 0 80 400 ms 400 ms 50 ms 50 ms"
    assert (
        "Good with 8 clients at once (TTFT p99 2.0 s, gaps p99 100 ms), too slow with 64; "
        "640 tokens/s with 64 clients." in lines
    )


def test_failures_and_a_slow_measurer_are_told():
    good, lines = judged(measured(1, 0.1, 0.01, failures=Counter({"429: slow": 7}), busy=0.97))
    assert good == [False]
    assert "Bad: the goals (TTFT p99 2.0 s, gaps p99 100 ms) are missed" in lines[3]
    assert "7 failed with 1 client: 429: slow" in lines
    assert "with 1 client this command took 97% of a processor" in lines[-1]


def test_no_answer_is_bad():
    good, lines = judged(Measured(Load("m", 1, 1, 1, 1), seconds=1.0))
    assert good == [False]
    assert "Bad: no answer was complete; give it more --seconds." in lines
    failed = Measured(Load("m", 1, 1, 1, 1), seconds=1.0, failures=Counter({"503: full": 2}))
    assert "Bad: no answer was complete; see below." in judged(failed)[1]
