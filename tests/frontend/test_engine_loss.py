"""What a client sees of an engine's death: a pause, whatever it asked for and whenever."""

import asyncio
import json

import pytest

from tests.frontend.gateway import until
from vgate.config.schema import Batch, Cache, DryRun, Server, Supervision
from vgate.wire.control import Drain

SLOW = DryRun(step_ms=5, prefill_tokens_per_s=1e9)
TEXT = "abcdefghij" * 8
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "array"}}}
CITY = {"type": "function", "function": {"name": "city", "parameters": {"type": "object"}}}

CHOSEN = {"type": "function", "function": {"name": "city"}}


def replies(events):
    """Return what a stream said, by choice."""
    assert events[-1] == "[DONE]", events[-1]
    said = {}
    for event in map(json.loads, events[:-1]):
        for choice in event.get("choices", []):
            reply = said.setdefault(choice["index"], {"content": "", "arguments": "", "tokens": []})
            delta = choice["delta"]
            reply["content"] += delta.get("content") or ""
            for call in delta.get("tool_calls") or []:
                reply["arguments"] += call["function"].get("arguments", "")
            entries = (choice.get("logprobs") or {}).get("content") or []
            reply["tokens"] += [(entry["token"], entry["logprob"]) for entry in entries]
            reply["finish_reason"] = choice["finish_reason"] or reply.get("finish_reason")
    return said


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"seed": 7},
        {"seed": 7, "temperature": 1.5, "presence_penalty": 1.0},
        {"temperature": 0, "frequency_penalty": 0.5},
        {"temperature": 0, "bad_words": ["zebra"]},
        {"temperature": 1, "response_format": SCHEMA, "text": json.dumps([TEXT])},
        {"seed": 7, "tools": [CITY], "tool_choice": CHOSEN, "text": json.dumps({"where": TEXT})},
        {"logprobs": True, "top_logprobs": 2},
        {"logprobs": True, "seed": 1, "n": 3},
        {"n": 2, "stop": ["nothing"], "frequency_penalty": 1.0, "temperature": 0},
    ],
    ids=lambda fields: "-".join(fields) or "plain",
)
def test_a_stream_goes_on_where_it_was(serve, fields):
    fields = dict(fields)
    text = fields.pop("text", TEXT)

    async def scenario(gateway):
        whole = replies((await gateway.chat(text, stream=True, **fields)).events)
        protocol, task = gateway.begin_chat(text, stream=True, **fields)
        await until(lambda: len(protocol.parts) > 8, "it has begun")
        await gateway.engine.stop()
        begun = len(protocol.parts)
        assert not task.done()
        await gateway.start_engine()
        await asyncio.wait_for(task, 20)
        assert len(protocol.parts) > begun
        assert replies(protocol.events) == whole

    serve(scenario, dry_run=SLOW)


@pytest.mark.parametrize("fields", [{"presence_penalty": 1.0}, {"bad_words": ["zebra"]}])
def test_what_is_a_matter_of_chance_ends_in_an_error(serve, fields):
    async def scenario(gateway):
        text = json.dumps([TEXT])
        protocol, task = gateway.begin_chat(text, stream=True, temperature=1, **fields)
        await until(lambda: len(protocol.parts) > 3, "it has begun")
        await gateway.engine.stop()
        await asyncio.wait_for(task, 10)
        assert json.loads(protocol.events[-1])["error"]["code"] == "engine_unavailable"

    serve(scenario, dry_run=SLOW)


class TestHeld:
    """Requests that come while the engine restarts."""

    async def lose(self, gateway):
        await gateway.start_engine()
        await gateway.engine.stop()
        gateway.engine = None
        self.engine = gateway.app.models[0].engine
        await until(lambda: not self.engine.connected, "the loss is noticed")
        gateway.tell_state("restarting")

    def test_they_are_answered_by_the_next_engine(self, serve):
        async def scenario(gateway):
            await self.lose(gateway)
            begun = [gateway.begin_chat(f"text {n}", stream=n % 2 == 0, n=1) for n in range(8)]
            embedded = gateway.begin("POST", "/tokenize", b'{"prompt": "hi"}')
            await asyncio.wait_for(embedded[1], 10)
            assert embedded[0].status == 200
            await until(lambda: self.engine.in_flight == 8, "they wait")
            assert (await gateway.request("GET", "/ready")).status == 503
            await gateway.start_engine()
            for number, (protocol, task) in enumerate(begun):
                await asyncio.wait_for(task, 10)
                assert protocol.status == 200
                assert f"text {number}".encode()[-1:] in protocol.body
                assert b"engine" not in protocol.body

        serve(scenario, engine=False)

    def test_a_stream_is_kept_alive_meanwhile(self, serve):
        async def scenario(gateway):
            await self.lose(gateway)
            protocol, task = gateway.begin_chat("hello", stream=True)
            await until(lambda: protocol.body.count(b"\n: ") > 1 or b": k" in protocol.body, "one")
            await gateway.start_engine()
            await asyncio.wait_for(task, 10)
            assert protocol.events[-1] == "[DONE]"

        serve(scenario, engine=False, server=Server(stream_keepalive_s=0.05))

    @pytest.mark.parametrize("stream", [True, False])
    def test_who_leaves_is_forgotten(self, serve, stream):
        async def scenario(gateway):
            await self.lose(gateway)
            protocol, task = gateway.begin_chat("hello", stream=stream)
            await until(lambda: protocol.disconnected, "it is watched")
            assert self.engine.in_flight == 1
            protocol.disconnected.set_result(None)
            await asyncio.wait_for(task, 10)
            assert self.engine.in_flight == 0
            engine = await gateway.start_engine()
            assert engine.idle

        serve(scenario, engine=False)

    @pytest.mark.parametrize("stream", [True, False])
    def test_they_wait_for_a_limited_time(self, serve, stream):
        async def scenario(gateway):
            await self.lose(gateway)
            answer = await gateway.chat("hello", stream=stream)
            assert (answer.status, answer.error["code"]) == (503, "engine_unavailable")
            assert "did not come back" in answer.error["message"]
            assert int(answer.headers["retry-after"]) >= 1

        serve(scenario, engine=False, supervision=Supervision(hold_requests_s=0.05))

    def test_more_than_fit_the_queue_are_refused(self, serve):
        async def scenario(gateway):
            await self.lose(gateway)
            begun = [gateway.begin_chat(f"text {number}") for number in range(3)]
            await until(lambda: self.engine.in_flight == 3, "they wait")
            assert (await gateway.chat("one more")).status == 503
            await gateway.start_engine()
            for protocol, task in begun:
                await asyncio.wait_for(task, 10)
                assert protocol.status == 200

        batch = Batch(max_num_seqs=1, max_queue_size=3)
        serve(scenario, engine=False, batch=batch, server=Server(workers=1))

    def test_holding_can_be_turned_off(self, serve):
        async def scenario(gateway):
            await self.lose(gateway)
            answer = await gateway.chat()
            assert (answer.status, answer.error["code"]) == (503, "engine_unavailable")
            assert "restarting" in answer.error["message"]

        serve(scenario, engine=False, supervision=Supervision(hold_requests_s=0))

    def test_a_stored_answer_needs_no_engine(self, serve):
        async def scenario(gateway):
            await gateway.start_engine()
            assert (await gateway.chat("kept")).headers["x-vgate-cache"] == "miss"
            await gateway.engine.stop()
            gateway.engine = None
            answer = await gateway.chat("kept")
            assert (answer.status, answer.headers["x-vgate-cache"]) == (200, "hit")

        serve(scenario, engine=False, cache=Cache())

    def test_a_drain_ends_them(self, serve):
        async def scenario(gateway):
            await self.lose(gateway)
            protocol, task = gateway.begin_chat("hello")
            await until(lambda: self.engine.in_flight == 1, "it waits")
            gateway.tell(Drain(30.0))
            await asyncio.wait_for(task, 10)
            assert (protocol.status, protocol.error["code"]) == (503, "shutting_down")

        serve(scenario, engine=False)


def test_a_request_that_engines_die_of_is_refused_in_the_end(serve):
    async def scenario(gateway):
        async def kill():
            await until(lambda: gateway.engine.scheduler.running, "it runs")
            # The frontend has heard that it runs.
            await asyncio.sleep(0.05)
            await gateway.engine.stop()

        async def tried(deaths):
            protocol, task = gateway.begin_chat("killer", ignore_eos=True)
            for _ in range(deaths):
                await kill()
                await gateway.start_engine()
            await asyncio.wait_for(task, 10)
            assert (protocol.status, protocol.error["code"]) == (503, "engine_unavailable")
            return protocol

        await tried(2)
        # It may have been another one's fault.
        await tried(1)
        refused = await tried(0)
        assert "3 engines died" in refused.error["message"]
        assert int(refused.headers["retry-after"]) > 100
        assert (await gateway.chat("innocent")).status == 200

    serve(scenario, dry_run=SLOW)
