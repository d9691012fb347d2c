"""Streams that are taken up again after their client has lost its connection."""

import asyncio
import json
import random
import re
import time

import pytest

from tests.frontend.gateway import Gateway, Protocol, until
from vgate.config.schema import DryRun, Server
from vgate.frontend.answers import resumable
from vgate.frontend.answers.answer import StreamedAnswer

QUICK = DryRun(step_ms=2, prefill_tokens_per_s=1e9)
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
CALL = '<tool_call>\n{"name": "f", "arguments": {"a": "some text"}}\n</tool_call>'
TEXT = "The quick brown fox jumps over the lazy dog, naïvely; 你好."
MESSAGES = [{"role": "user", "content": TEXT}]

CASES = {
    "chat": ("/v1/chat/completions", {"messages": MESSAGES}),
    "usage": (
        "/v1/chat/completions",
        {
            "messages": MESSAGES,
            "stream_options": {"include_usage": True, "continuous_usage_stats": True},
        },
    ),
    "logprobs": (
        "/v1/chat/completions",
        {"messages": MESSAGES, "logprobs": True, "top_logprobs": 2},
    ),
    "tools": (
        "/v1/chat/completions",
        {"messages": [{"role": "user", "content": f"{TEXT} {CALL} {CALL}"}], "tools": TOOLS},
    ),
    "stop": ("/v1/chat/completions", {"messages": MESSAGES, "stop": "lazy"}),
    "choices": ("/v1/chat/completions", {"messages": MESSAGES, "n": 3}),
    "completions": ("/v1/completions", {"prompt": [TEXT, "Another one."], "n": 2, "logprobs": 1}),
    "responses": ("/v1/responses", {"input": TEXT}),
    "responses tools": (
        "/v1/responses",
        {
            "input": f"{TEXT} {CALL}",
            "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
        },
    ),
    "messages": ("/v1/messages", {"messages": MESSAGES, "max_tokens": 500}),
    "messages tools": (
        "/v1/messages",
        {
            "messages": [{"role": "user", "content": f"{TEXT} {CALL}"}],
            "max_tokens": 500,
            "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        },
    ),
}


def body_of(case: str, **more) -> bytes:
    _, fields = CASES[case]
    return json.dumps({"model": "m", "stream": True, **fields, **more}).encode()


def begin(gateway: Gateway, case: str, **headers: str):
    headers = {"x_vgate_resumable": "true", **headers}
    return gateway.begin("POST", CASES[case][0], body_of(case), **headers)


def events_of(body: bytes) -> list[str]:
    """Return the events that have a number, complete or not at the end."""
    return [event for event in body.decode().split("\n\n") if event.startswith("id: ")]


def without_time(events: list[str]) -> list[str]:
    """Leave out when a response was completed: each connection says when that was for it."""
    return [re.sub(r'"completed_at":\d+', "", event) for event in events]


def id_of(event: str) -> str:
    return event.partition("\n")[0].removeprefix("id: ")


async def resume(
    gateway: Gateway, case: str, last: str, method: str = "POST", **headers: str
) -> Protocol:
    body = body_of(case) if method == "POST" else b""
    return await gateway.request(method, CASES[case][0], body, last_event_id=last, **headers)


@pytest.mark.parametrize("case", CASES)
def test_a_stream_is_continued_from_every_place(serve, case):
    async def scenario(gateway):
        protocol, task = begin(gateway, case)
        await task
        events = events_of(protocol.body)
        assert protocol.status == 200
        assert protocol.headers["x-vgate-resumable"] == "30"
        assert len({id_of(event) for event in events}) == len(events) > 10
        places = range(len(events)) if len(events) < 60 else range(0, len(events), 7)
        for place in places:
            method = "POST" if place % 2 else "GET"
            rest = await resume(gateway, case, id_of(events[place]), method)
            assert rest.status == 200
            missing = set(events[place + 1 :])
            if case in {"choices", "completions"}:
                # The choices don't wait for each other, so what has come of each is its own.
                assert _by_choice(events_of(rest.body)) == _by_choice(missing, events)
            else:
                assert without_time(events_of(rest.body)) == without_time(events[place + 1 :])

    serve(scenario, dry_run=QUICK)


def _by_choice(events, order=None) -> dict[object, list[str]]:
    """Return the data of events by the choice that they are of."""
    found: dict[object, list[str]] = {}
    for event in order if order is not None else events:
        if event not in events:
            continue
        data = event.partition("data: ")[2]
        choices = [] if data == "[DONE]" else json.loads(data)["choices"]
        found.setdefault(choices[0]["index"] if choices else None, []).append(data)
    return found


async def cut(gateway: Gateway, protocol: Protocol, task, at: int, keeps: int) -> list[str]:
    """Lose a connection after so many events; return those of them that the client has."""
    await until(lambda: len(events_of(protocol.body)) >= at or task.done(), "events")
    if protocol.disconnected is not None and not protocol.disconnected.done():
        protocol.disconnected.set_result(None)
    return events_of(protocol.body)[:keeps]


async def cut_thrice(gateway: Gateway, case: str, rng: random.Random) -> None:
    protocol, task = begin(gateway, case)
    at = rng.randrange(1, 60)
    got = await cut(gateway, protocol, task, at, rng.randrange(1, at + 1))
    first = id_of(got[0]).rpartition(":")[0]
    for _ in range(2):
        rest, following = gateway.begin("GET", CASES[case][0], last_event_id=id_of(got[-1]))
        got += await cut(gateway, rest, following, 1, rng.randrange(1, 20))
    end = await resume(gateway, case, id_of(got[-1]), "GET")
    got += events_of(end.body)
    whole = events_of((await resume(gateway, case, first)).body)
    if case == "choices":
        assert _by_choice(got) == _by_choice(whole)
    else:
        assert without_time(got) == without_time(whole)
    await asyncio.wait_for(task, 10)


@pytest.mark.parametrize("case", ["chat", "logprobs", "tools", "choices", "responses", "messages"])
def test_a_running_stream_is_continued_from_where_it_was_cut(serve, case):
    rng = random.Random(case)

    async def scenario(gateway):
        for _ in range(4):
            await cut_thrice(gateway, case, rng)
        await until(lambda: gateway.engine.idle, "idle")

    serve(scenario, dry_run=QUICK)


@pytest.mark.parametrize("first", [{}, {"x_request_id": "first"}])
def test_the_answer_keeps_its_id_whatever_the_next_request_s_is(serve, first):
    async def scenario(gateway):
        protocol, task = begin(gateway, "chat", **first)
        await task
        events = events_of(protocol.body)
        assert ('"id":"chatcmpl-first"' in events[0]) == bool(first)
        rest = await resume(gateway, "chat", id_of(events[0]), x_request_id="second")
        assert events_of(rest.body) == events[1:]

    serve(scenario, dry_run=QUICK)


def test_the_earlier_connection_hears_that_it_was_superseded(serve):
    async def scenario(gateway):
        protocol, task = begin(gateway, "chat")
        await until(lambda: len(events_of(protocol.body)) > 5, "events")
        seen = events_of(protocol.body)
        rest = await resume(gateway, "chat", id_of(seen[-1]), "GET")
        await asyncio.wait_for(task, 10)
        first = events_of(protocol.body)
        error = json.loads(protocol.events[-1])["error"]
        assert error["code"] == "stream_taken_over"
        assert "[DONE]" not in protocol.body.decode()
        assert rest.body.endswith(b"data: [DONE]\n\n")
        assert first[: len(seen)] == seen
        # What the first one got later, the second got as well: it was told where to begin.
        assert events_of(rest.body)[: len(first) - len(seen)] == first[len(seen) :]

    serve(scenario, dry_run=QUICK)


def test_responses_are_continued_by_their_sequence_numbers(serve):
    async def scenario(gateway):
        protocol, task = begin(gateway, "responses")
        await task
        data = [json.loads(e.partition("data: ")[2]) for e in events_of(protocol.body)]
        assert [d["sequence_number"] for d in data] == list(range(len(data)))
        path = f"/v1/responses/{data[0]['response']['id']}?stream=true"
        for after in (None, 0, 5, len(data) - 2, len(data) - 1):
            query = path if after is None else f"{path}&starting_after={after}"
            rest = await gateway.request("GET", query)
            assert rest.status == 200
            got = [json.loads(e.partition("data: ")[2]) for e in events_of(rest.body)]
            for each in (got, data):
                if each:
                    each[-1]["response"]["completed_at"] = 0
            assert got == data[0 if after is None else after + 1 :]
        wrong = await gateway.request("GET", f"{path}&starting_after=x")
        assert (wrong.status, wrong.error["param"]) == (400, "starting_after")
        stored = await gateway.request("GET", path.partition("?")[0])
        assert stored.json["status"] == "completed"

    serve(scenario, dry_run=QUICK)


def test_what_is_not_kept_is_not_found(serve):
    async def scenario(gateway):
        unknown = await resume(gateway, "chat", "req-unknown:5", "GET")
        assert (unknown.status, unknown.error["code"]) == (404, "stream_not_found")
        assert "Last-Event-ID" in unknown.error["message"]
        plain, task = gateway.begin("POST", CASES["chat"][0], body_of("chat"))
        await task
        assert b"id: " not in plain.body
        assert "x-vgate-resumable" not in plain.headers
        unasked = await resume(gateway, "chat", f"{plain.headers['x-request-id']}:5")
        assert unasked.status == 404
        protocol, task = begin(gateway, "chat")
        await task
        last = id_of(events_of(protocol.body)[3])
        elsewhere = await resume(gateway, "completions", last)
        assert elsewhere.status == 404
        many = await resume(gateway, "chat", f"{last}.3")
        assert (many.status, many.error["param"]) == (400, "Last-Event-ID")
        for method, status in (("GET", 405), ("HEAD", 405)):
            bare = await gateway.request(method, CASES["chat"][0])
            assert bare.status == status
        head = await gateway.request("HEAD", CASES["chat"][0], last_event_id=last)
        assert head.status == 405
        gone = await gateway.request("GET", "/v1/responses/resp_1?stream=true")
        assert gone.status == 404

    serve(scenario, dry_run=QUICK)


def test_without_a_time_nothing_is_kept(serve):
    async def scenario(gateway):
        protocol, task = begin(gateway, "chat")
        await task
        assert protocol.status == 200
        assert b"id: " not in protocol.body

    serve(scenario, dry_run=QUICK, server=Server(replay_s=0))


def test_a_stream_whose_client_stays_away_is_stopped(serve):
    async def scenario(gateway):
        protocol, task = begin(gateway, "chat")
        await until(lambda: len(events_of(protocol.body)) > 2, "events")
        protocol.disconnected.set_result(None)
        await asyncio.wait_for(task, 10)
        await until(lambda: gateway.engine.idle, "idle")
        assert b"[DONE]" not in protocol.body

    slow = DryRun(step_ms=50, prefill_tokens_per_s=1e9)
    serve(scenario, dry_run=slow, server=Server(replay_s=0.2))


def test_a_client_that_leaves_without_an_event_ends_its_stream(serve):
    async def scenario(gateway):
        protocol, task = begin(gateway, "chat")
        await until(lambda: protocol.disconnected is not None, "watched")
        protocol.disconnected.set_result(None)
        await asyncio.wait_for(task, 10)
        await until(lambda: gateway.engine.idle, "idle")

    slow = DryRun(step_ms=2, prefill_tokens_per_s=20)
    serve(scenario, dry_run=slow)


def test_a_worker_that_stops_leaves_its_streams_to_others(serve):
    async def scenario(gateway):
        protocol, task = begin(gateway, "chat")
        await until(lambda: len(events_of(protocol.body)) > 5, "events")
        gateway.app.draining.end_requests()
        await asyncio.wait_for(task, 10)
        seen = events_of(protocol.body)
        assert json.loads(protocol.events[-1])["error"]["code"] == "shutting_down"
        late = await resume(gateway, "chat", id_of(seen[-1]), "GET")
        assert (late.status, late.json["error"]["code"]) == (503, "shutting_down")
        await gateway.replace_worker()
        rest = await resume(gateway, "chat", id_of(seen[-1]), "GET")
        whole = await resume(gateway, "chat", id_of(seen[0]).rpartition(":")[0], "GET")
        assert seen + events_of(rest.body) == events_of(whole.body)
        assert whole.body.endswith(b"data: [DONE]\n\n")

    serve(scenario, dry_run=QUICK)


def test_metrics_count_the_tokens_and_the_wait_of_a_stream_once(serve, monkeypatch):
    recorded = []

    def record(_model, tokens, times_s, _example, *, shared):
        recorded.append((*tokens, times_s[0] is not None, shared))

    monkeypatch.setattr("vgate.frontend.observe.metrics.record_generated", record)

    async def scenario(gateway):
        _, task = begin(gateway, "chat")
        await task
        ((prompt, completion, *_),) = recorded
        recorded.clear()
        protocol, task = begin(gateway, "chat")
        await until(lambda: len(events_of(protocol.body)) > 5, "events")
        last = id_of(events_of(protocol.body)[0])
        rest, following = gateway.begin("GET", CASES["chat"][0], last_event_id=last)
        await until(lambda: len(events_of(rest.body)) > 20, "events")
        rest.disconnected.set_result(None)
        await resume(gateway, "chat", last)
        await resume(gateway, "chat", last)
        await asyncio.gather(task, following)
        assert sum(each[0] for each in recorded) == prompt
        assert sum(each[1] for each in recorded) == completion
        assert sum(each[2] for each in recorded) == 1
        assert not any(each[3] for each in recorded)
        (row,) = (await gateway.request("GET", "/v1/usage")).json["data"]
        used = row["requests"], row["prompt_tokens"], row["completion_tokens"], row["errors"]
        assert used == (2, 2 * prompt, 2 * completion, 0)

    serve(scenario, dry_run=QUICK)


@pytest.mark.parametrize("events", [0, 10])
def test_what_a_killed_worker_has_not_counted_is_counted_by_the_next(serve, events):
    async def usage(gateway):
        (row,) = (await gateway.request("GET", "/v1/usage")).json["data"]
        return row["requests"], row["prompt_tokens"], row["completion_tokens"]

    async def scenario(gateway):
        _, task = begin(gateway, "chat")
        await task
        whole = await usage(gateway)
        protocol, task = begin(gateway, "chat")
        await until(lambda: len(events_of(protocol.body)) > events, "events")
        last = id_of(events_of(protocol.body)[events])
        # As if the engine had noticed the death of the process.
        kept = gateway.engine._loop._kept
        for reader in list(kept._by_reader):
            assert kept.leave(reader, time.monotonic(), counts=False)
        await resume(gateway, "chat", last)
        assert await usage(gateway) == tuple(2 * count for count in whole)
        task.cancel()
        await asyncio.wait([task])

    serve(scenario, dry_run=QUICK)


def test_many_streams_that_are_behind_read_in_many_turns(serve, monkeypatch):
    """A worker that is late has several steps of each stream, which it reads token by token."""
    read, turns = [], []
    flush = StreamedAnswer.flush
    monkeypatch.setattr(StreamedAnswer, "flush", lambda self: (read.append(1), flush(self))[1])

    async def scenario(gateway):
        done = False

        async def count():
            while not done:
                await asyncio.sleep(0)
                turns.append(len(read))
                read.clear()

        counting = asyncio.create_task(count())
        begun = [begin(gateway, "chat", x_request_id=f"r{n}") for n in range(20)]
        await asyncio.gather(*(task for _, task in begun))
        again = [gateway.begin("GET", CASES["chat"][0], last_event_id=f"r{n}") for n in range(20)]
        read.clear()
        turns.clear()
        await asyncio.gather(*(task for _, task in again))
        done = True
        await counting
        whole = [events_of(protocol.body) for protocol, _ in begun]
        assert [events_of(protocol.body) for protocol, _ in again] == whole
        assert sum(turns) > 20 * len(TEXT.encode())
        assert max(turns) < 64

    # No time passes, so each may read once in a turn of the loop.
    monkeypatch.setattr(resumable, "_TURN_S", 0.0)
    monkeypatch.setattr(resumable, "_LONGEST_TURN_S", 0.0)
    serve(scenario, dry_run=QUICK)
