"""Requests for models that aren't loaded: they wait, are told what is going on, or are refused.

The test speaks as the launcher, and starts and drains engines as that would.
"""

import asyncio
import json
import math
import time
import weakref

import pytest

from tests.frontend.gateway import Engine, chat_body, post, until
from vgate.config.aliases import Alias
from vgate.config.model import AdditionalModel, Model, Residency
from vgate.config.schema import Batch, Cache, DryRun, Security, Server, Supervision, Timeouts
from vgate.engine import loop
from vgate.frontend.engines import served_model
from vgate.frontend.pipeline import pipeline
from vgate.keys import ConfiguredKey
from vgate.wire.control import Drain, EngineState, ModelDemand

ON_DEMAND = Model(model_id="m", load="on_demand")
SOON = Server(workers=1, stream_keepalive_s=0.05)
CHAT = "/v1/chat/completions"
MESSAGES = {"model": "m", "max_tokens": 40, "messages": [{"role": "user", "content": "Hello!"}]}
STREAMS = [
    (CHAT, {**MESSAGES, "stream": True}, '"content":"'),
    ("/v1/completions", {"model": "m", "prompt": "Hello!", "stream": True}, '"text":"'),
    ("/v1/responses", {"model": "m", "input": "Hello!", "stream": True}, "response.completed"),
    ("/v1/messages", {**MESSAGES, "stream": True}, "message_stop"),
]


@pytest.fixture(autouse=True)
def quick_drains(monkeypatch):
    monkeypatch.setattr(loop, "HEARTBEAT_S", 0.05)


@pytest.fixture
def away(serve):
    """Run a scenario with a model that isn't loaded."""

    def run(scenario, **sections):
        async def main(gateway):
            told(gateway, "unloaded", "it is loaded when a request names it")
            await until(lambda: state(gateway) == "unloaded", "it is told")
            await scenario(gateway)

        serve(main, engine=False, **{"model": ON_DEMAND, "server": SOON, **sections})

    return run


def told(gateway, name, detail="x", ahead=0, engine=0, *, drained=False):
    gateway.tell(EngineState(name, detail, time.time(), engine, ahead=ahead, drained=drained))


def state(gateway, number=0):
    return gateway.app.models[number].state.state


async def loaded(gateway):
    """Load the model, as the launcher would."""
    told(gateway, "ready")
    gateway.engine = Engine(gateway.runtime)
    gateway.engine.start()
    await until(lambda: gateway.app.models[0].engine.accepts, "it is loaded")


async def unloaded(gateway):
    """Drain its engine until it ends, as the launcher would."""
    gateway.engine._loop.drain(60)
    told(gateway, "draining", "it finishes its requests and is unloaded")
    await asyncio.to_thread(gateway.engine.join, 20)
    gateway.engine = None
    told(gateway, "unloaded")
    await until(lambda: not gateway.app.models[0].engine.connected, "its end is noticed")
    await until(lambda: state(gateway) == "unloaded", "it is told")


def demands(gateway):
    gateway.hear()
    return [message.models for message in gateway.heard if isinstance(message, ModelDemand)]


async def waits(gateway, count=1):
    residence = gateway.app.models[0].residence
    await until(lambda: len(residence) == count, f"{count} wait")


@pytest.mark.parametrize("text_is_there", [False, True])
def test_a_request_waits_and_is_answered(away, text_is_there, caplog):
    async def scenario(gateway):
        if text_is_there:
            await loaded(gateway)
            await unloaded(gateway)
        gateway.hear()
        gateway.heard.clear()
        protocol, task = gateway.begin_chat()
        await waits(gateway)
        await until(lambda: demands(gateway), "the launcher is told")
        (first, *_) = demands(gateway)
        assert (first["m"].waiting, first["m"].running) == (1, 0)
        assert first["m"].idle_s < 1
        await asyncio.sleep(0.1)
        assert not task.done()
        await loaded(gateway)
        await asyncio.wait_for(task, 20)
        assert protocol.status == 200
        assert protocol.json["choices"][0]["message"]["content"].startswith("Hello!")
        await waits(gateway, 0)
        await until(lambda: demands(gateway)[-1] == {}, "nothing is wanted any more")
        told_of = len(demands(gateway))
        await asyncio.sleep(0.6)
        assert len(demands(gateway)) == told_of

    away(scenario)


@pytest.mark.parametrize("text_is_there", [False, True])
@pytest.mark.parametrize(("path", "body", "end"), STREAMS)
def test_a_stream_hears_what_is_going_on(away, path, body, end, text_is_there):
    async def scenario(gateway):
        if text_is_there:
            await loaded(gateway)
            await unloaded(gateway)
        protocol, task = gateway.begin("POST", path, json.dumps(body).encode())
        await until(lambda: protocol.status, "the stream is opened")
        assert protocol.status == 200
        assert protocol.headers["content-type"].startswith("text/event-stream")
        told(gateway, "queued", "it waits for room", ahead=2)
        said = b": the model m is queued behind 2 other models\n"
        await until(lambda: said in protocol.body, "it is told of the queue")
        told(gateway, "starting", "loading weights (45 %)")
        loading = b"\n: the model m is loading, loading weights (45 %)\n"
        await until(lambda: loading in protocol.body, "it is told of the loading")
        await loaded(gateway)
        await asyncio.wait_for(task, 20)
        assert end in protocol.body.decode()
        assert "can't be loaded" not in protocol.body.decode()
        # Each block has a comment, an event, or both.
        for block in protocol.body.decode().split("\n\n")[:-1]:
            lines = block.split("\n")
            assert all(line.startswith((": ", "event: ", "data: ")) for line in lines), block

    away(scenario)


@pytest.mark.parametrize("text_is_there", [False, True])
@pytest.mark.parametrize(("path", "body", "_end"), STREAMS)
def test_a_model_that_can_not_be_loaded_ends_a_stream_by_an_error(
    away, path, body, _end, text_is_there
):
    async def scenario(gateway):
        if text_is_there:
            await loaded(gateway)
            await unloaded(gateway)
        protocol, task = gateway.begin("POST", path, json.dumps(body).encode())
        await until(lambda: protocol.status, "the stream is opened")
        told(gateway, "failed", "the GPU is too small")
        await asyncio.wait_for(task, 20)
        last = protocol.body.decode().rstrip("\n").split("\n\n")[-1]
        data = json.loads(last[last.index("data: ") + 6 :])
        message = "the model `m` can't be loaded: the GPU is too small"
        if path == "/v1/responses" and text_is_there:
            assert data["response"]["error"]["message"] == message
        elif path == "/v1/responses":
            assert (data["type"], data["message"]) == ("error", message)
        else:
            assert data["error"]["message"] == message
        assert last.startswith("data: ") == (path in (CHAT, "/v1/completions"))
        assert b"[DONE]" not in protocol.body

    away(scenario)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (CHAT, MESSAGES),
        ("/v1/completions", {"model": "m", "prompt": "Hello!"}),
        ("/v1/responses", {"model": "m", "input": "Hello!"}),
        ("/v1/messages", MESSAGES),
        ("/v1/messages", {**MESSAGES, "thinking": {"type": "disabled"}}),
        ("/v1/messages/count_tokens", {k: v for k, v in MESSAGES.items() if k != "max_tokens"}),
        ("/tokenize", {"model": "m", "prompt": "Hello!"}),
        ("/detokenize", {"model": "m", "tokens": [72]}),
    ],
)
def test_every_api_waits(away, path, body):
    async def scenario(gateway):
        for outcome in ("failed", "loaded"):
            protocol, task = gateway.begin("POST", path, json.dumps(body).encode())
            await waits(gateway)
            if outcome == "loaded":
                await loaded(gateway)
                await asyncio.wait_for(task, 20)
                assert protocol.status == 200
                continue
            told(gateway, "failed", "the GPU is too small")
            await asyncio.wait_for(task, 20)
            assert protocol.status == 503
            assert int(protocol.headers["retry-after"]) > 0
            assert "the GPU is too small" in protocol.error["message"]
            # One that comes now is told at once.
            assert (await post(gateway, path, body)).status == 503
            told(gateway, "unloaded")
            await until(lambda: state(gateway) == "unloaded", "it may be tried again")

    away(scenario)


def test_embeddings_wait(away):
    model = Model(model_id="m", task="embed", load="on_demand")
    body = {"model": "m", "input": ["one", "two", "three"]}

    async def scenario(gateway):
        for _ in range(2):
            protocol, task = gateway.begin("POST", "/v1/embeddings", json.dumps(body).encode())
            await waits(gateway)
            await loaded(gateway)
            await asyncio.wait_for(task, 20)
            assert len(protocol.json["data"]) == 3
            await unloaded(gateway)

    away(scenario, model=model)


@pytest.mark.parametrize("task", ["embed", "generate"])
def test_what_only_the_engine_knows_of_a_model(away, monkeypatch, task):
    monkeypatch.setattr(served_model, "known_task", lambda _model: None)
    body = {"model": "m", "input": "one"}

    async def scenario(gateway):
        models = gateway.app.models
        assert models.states()[0].task == "auto"
        embeds, embedding = gateway.begin("POST", "/v1/embeddings", json.dumps(body).encode())
        chats, chatting = gateway.begin_chat()
        await waits(gateway, 2)
        await loaded(gateway)
        await asyncio.wait_for(asyncio.gather(embedding, chatting), 20)
        other = chats if task == "embed" else embeds
        assert {embeds.status, chats.status} == {200, 400}
        assert (
            f"does not {'generate' if other is chats else 'embed'} text" in other.error["message"]
        )
        assert models.states()[0].task == task
        # Another one isn't loaded in vain.
        await unloaded(gateway)
        again = gateway.chat("x") if other is chats else post(gateway, "/v1/embeddings", body)
        assert (await again).status == 400

    away(scenario, model=Model(model_id="m", task=task, load="on_demand"))


def test_what_the_text_side_answers_needs_no_engine(away):
    async def scenario(gateway):
        await loaded(gateway)
        first = await gateway.chat("again", temperature=0)
        await unloaded(gateway)
        await asyncio.sleep(0.6)
        gateway.hear()
        gateway.heard.clear()
        assert (await post(gateway, "/tokenize", {"model": "m", "prompt": "x"})).status == 200
        again = await gateway.chat("again", temperature=0)
        assert again.headers["x-vgate-cache"] == "hit"
        assert again.json["choices"] == first.json["choices"]
        assert not [demand for demand in demands(gateway) if demand]

    away(scenario, cache=Cache())


@pytest.mark.parametrize("text_is_there", [False, True])
def test_too_many_are_refused(away, text_is_there):
    async def scenario(gateway):
        if text_is_there:
            await loaded(gateway)
            await unloaded(gateway)
        tasks = [gateway.begin_chat(str(n), n=2)[1] for n in range(3)]
        await waits(gateway, 3)
        refused = await gateway.chat("one more")
        assert (refused.status, refused.error["code"]) == (503, "overloaded")
        assert "residency.max_waiting" in refused.error["message"]
        assert int(refused.headers["retry-after"]) > 0
        refused = await post(gateway, "/v1/messages", MESSAGES)
        assert (refused.status, refused.error["type"]) == (503, "overloaded_error")
        await loaded(gateway)
        await asyncio.wait_for(asyncio.gather(*tasks), 20)
        assert (await gateway.chat("one more")).status == 200

    away(scenario, residency=Residency(max_waiting=3))


@pytest.mark.parametrize("text_is_there", [False, True])
def test_a_key_leaves_room_to_the_others(away, text_is_there):
    names = ("alice", "bob", "carol")
    keys = [ConfiguredKey(name=name, key=name[0] * 20) for name in names]
    bearers = [{"authorization": f"Bearer {name[0] * 20}"} for name in names]

    async def scenario(gateway):
        if text_is_there:
            await loaded(gateway)
            await unloaded(gateway)
        tasks = []

        async def asks(bearer, accepted):
            for number in range(accepted):
                begun = gateway.begin("POST", CHAT, chat_body(gateway, str(number)), **bearer)
                tasks.append(begun[1])
                await waits(gateway, len(tasks))
            refused = await gateway.request("POST", CHAT, chat_body(gateway, "x"), **bearer)
            assert (refused.status, refused.error["code"]) == (503, "overloaded")
            return refused.error["message"]

        assert "too many requests of this API key wait" in await asks(bearers[0], 4)
        assert "too many requests of this API key wait" in await asks(bearers[1], 2)
        gateway.app.models[0].residence._room._most_bytes = 1
        assert "too many requests wait" in await asks(bearers[2], 0)
        await loaded(gateway)
        await asyncio.wait_for(asyncio.gather(*tasks), 20)
        room = gateway.app.models[0].residence._room
        await until(lambda: not room.requests and not room.size_bytes, "none waits")
        assert not room._requests_of
        assert not room._bytes_of

    security = Security(enabled=True, api_keys=keys)
    away(scenario, security=security, residency=Residency(max_waiting=8))


def test_a_key_for_an_alias_hears_of_no_other_name(away):
    key = ConfiguredKey(name="alice", key="a" * 20, models=["tutor"])
    alice = {"authorization": "Bearer " + "a" * 20}
    body = json.dumps({**MESSAGES, "model": "tutor", "stream": True}).encode()

    async def scenario(gateway):
        protocol, task = gateway.begin("POST", CHAT, body, **alice)
        states = [
            ("queued", ", it waits for room in the memory"),
            ("draining", "is being unloaded"),
        ]
        for name, said in states:
            told(gateway, name, "secret will leave: hidden is asked for")
            await until(lambda s=said: s in protocol.body.decode(), "it is told")
        assert b": the model tutor is queued, it waits" in protocol.body
        for word in (b"secret", b"hidden", b"the model m "):
            assert word not in protocol.body
        await loaded(gateway)
        await asyncio.wait_for(task, 20)

    security = Security(enabled=True, api_keys=[key])
    away(scenario, security=security, aliases={"tutor": Alias(model="m")})


async def drained(gateway):
    """Drain its engine, as an operator would have the launcher do."""
    gateway.engine._loop.cordoned = True
    told(gateway, "draining", "drained, until it is resumed", drained=True)
    await until(lambda: not gateway.app.models[0].engine.accepts, "it takes nothing")


def test_what_comes_to_a_drained_engine_is_held_no_longer_than_for_another_one(away):
    async def scenario(gateway):
        await loaded(gateway)
        await drained(gateway)
        protocol, task = gateway.begin_chat()
        await asyncio.wait_for(task, 20)
        assert protocol.status == 503
        assert "did not come back" in protocol.json["error"]["message"]
        await waits(gateway, 0)

    away(scenario, supervision=Supervision(hold_requests_s=0.1))


def test_what_waited_for_a_drained_engine_waits_for_its_model_again_once_that_is_unloaded(away):
    async def scenario(gateway):
        await loaded(gateway)
        await drained(gateway)
        protocol, task = gateway.begin_chat()
        await waits(gateway)
        survivors = gateway.app.models[0].engine._survivors
        assert max(survivors._held.values()) < math.inf
        await unloaded(gateway)
        await until(lambda: min(survivors._held.values()) == math.inf, "it waits for its model")
        await loaded(gateway)
        await asyncio.wait_for(task, 20)
        assert protocol.status == 200

    away(scenario)


@pytest.mark.parametrize("text_is_there", [False, True])
def test_prompts_that_wait_are_bounded_in_bytes(away, text_is_there):
    async def scenario(gateway):
        if text_is_there:
            await loaded(gateway)
            await unloaded(gateway)
        gateway.app.models[0].residence._room._most_bytes = 1000
        _, task = gateway.begin_chat("x" * 1000)
        await waits(gateway)
        assert (await gateway.chat("one more")).status == 503
        await loaded(gateway)
        await asyncio.wait_for(task, 20)

    away(scenario)


@pytest.mark.parametrize("text_is_there", [False, True])
@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_waits_no_more(away, text_is_there, stream):
    async def scenario(gateway):
        if text_is_there:
            await loaded(gateway)
            await unloaded(gateway)
        protocol, task = gateway.begin_chat(stream=stream)
        await waits(gateway)
        await until(lambda: protocol.disconnected, "it is watched")
        protocol.disconnected.set_result(None)
        await asyncio.wait_for(task, 20)
        await waits(gateway, 0)
        room = gateway.app.models[0].residence._room
        assert (room.requests, room.size_bytes) == (0, 0)
        await until(lambda: demands(gateway) and demands(gateway)[-1] == {}, "it is told")

    away(scenario)


@pytest.mark.parametrize("text_is_there", [False, True])
def test_no_request_takes_longer_than_it_may(away, text_is_there):
    async def scenario(gateway):
        if text_is_there:
            await loaded(gateway)
            await unloaded(gateway)
        late = await gateway.chat()
        assert (late.status, late.error["code"]) == (504, "deadline_exceeded")
        await waits(gateway, 0)

    away(scenario, timeouts=Timeouts(request_s=0.6))


def test_the_time_in_the_queue_counts_from_when_the_model_is_loaded(away):
    async def scenario(gateway):
        await loaded(gateway)
        await unloaded(gateway)
        protocol, task = gateway.begin_chat()
        await asyncio.sleep(0.6)
        await loaded(gateway)
        await asyncio.wait_for(task, 20)
        assert protocol.status == 200

    away(scenario, timeouts=Timeouts(queue_s=0.5))


@pytest.mark.parametrize("text_is_there", [False, True])
def test_one_that_waits_counts_among_those_that_run_at_once(away, text_is_there):
    key = ConfiguredKey(name="alice", key="a" * 20, concurrent=1, rate_limit=100)
    alice = {"authorization": "Bearer " + "a" * 20}

    async def scenario(gateway):
        if text_is_there:
            await loaded(gateway)
            await unloaded(gateway)
        protocol, task = gateway.begin("POST", CHAT, chat_body(gateway, "x"), **alice)
        await waits(gateway)
        other = await gateway.request("POST", CHAT, chat_body(gateway, "y"), **alice)
        assert other.status == 429
        await loaded(gateway)
        await asyncio.wait_for(task, 20)
        assert protocol.status == 200
        assert protocol.headers["x-ratelimit-remaining-requests"] == "99"
        other = await gateway.request("POST", CHAT, chat_body(gateway, "y"), **alice)
        assert (other.status, other.headers["x-ratelimit-remaining-requests"]) == (200, "98")

    security = Security(enabled=True, api_keys=[key])
    away(scenario, security=security)


def test_an_answer_is_never_cut_and_no_request_lost_by_a_swap(away, caplog):
    slow = DryRun(step_ms=5, prefill_tokens_per_s=1e9)

    async def scenario(gateway):
        await loaded(gateway)
        running = [gateway.begin_chat("abcdefghij" * 4, stream=True) for _ in range(3)]
        await until(lambda: all(len(protocol.parts) > 3 for protocol, _ in running), "they run")
        swap = asyncio.ensure_future(unloaded(gateway))
        later = []
        while not swap.done():
            later.append(gateway.begin_chat(f"number {len(later)}"))
            await asyncio.sleep(0.01)
        for protocol, task in running:
            await asyncio.wait_for(task, 20)
            assert protocol.events[-1] == "[DONE]"
        await swap
        await loaded(gateway)
        for number, (protocol, task) in enumerate(later):
            await asyncio.wait_for(task, 20)
            assert protocol.status == 200
            content = protocol.json["choices"][0]["message"]["content"]
            assert content.startswith(f"number {number}")
        assert "lost the engine" not in caplog.text

    away(scenario, dry_run=slow, batch=Batch(max_num_seqs=64))


def test_a_request_that_the_engine_had_not_read_waits_and_is_no_suspect(away, caplog):
    async def scenario(gateway):
        await loaded(gateway)
        await gateway.chat()
        pool = gateway.app.models[0].engine
        # It hears of the drain, and ends, before it has read what was sent.
        engine = gateway.engine
        engine._loop._read_inbox = lambda: time.sleep(0.01)
        protocol, task = gateway.begin_chat("x")
        await until(lambda: pool.in_flight, "it was sent")
        engine._loop.drain(60)
        await asyncio.to_thread(engine.join, 20)
        gateway.engine = None
        await until(lambda: pool._survivors.waiting, "it waits")
        (sequence,) = pool._survivors.waiting.values()
        assert (sequence.deaths, sequence.losses) == (0, 0)
        # The launcher is told for how long, so that it makes room for it as for any other.
        await until(
            lambda: any(each["m"].oldest_s > 0.3 for each in demands(gateway)[-1:] if each),
            "it is told how long",
        )
        await loaded(gateway)
        await asyncio.wait_for(task, 20)
        assert protocol.status == 200

    away(scenario)


def test_a_server_that_stops_ends_those_that_wait(away):
    async def scenario(gateway):
        begun = [gateway.begin_chat("a"), gateway.begin_chat("b", stream=True)]
        await waits(gateway, 2)
        await until(lambda: begun[1][0].status, "the stream is opened")
        gateway.tell(Drain(20))
        for protocol, task in begun:
            await asyncio.wait_for(task, 10)
            assert b"shutting_down" in protocol.body

    away(scenario)


@pytest.mark.parametrize("text_is_there", [False, True])
def test_one_that_was_about_to_wait_when_the_server_stops_does_not(
    away, text_is_there, monkeypatch
):
    async def scenario(gateway):
        if text_is_there:
            await loaded(gateway)
            await unloaded(gateway)
        go_on = asyncio.Event()
        held = pipeline.text_of

        async def text_of(*arguments):
            await go_on.wait()
            return await held(*arguments)

        monkeypatch.setattr(pipeline, "text_of", text_of)
        protocol, task = gateway.begin_chat()
        await asyncio.sleep(0.1)
        gateway.tell(Drain(60))
        await until(lambda: gateway.app._launcher.draining, "it stops")
        go_on.set()
        await until(task.done, "it has an answer")
        assert (protocol.status, protocol.error["code"]) == (503, "shutting_down")

    away(scenario)


def test_models_that_always_are_loaded_cost_nothing(serve):
    async def scenario(gateway):
        assert gateway.app.models[0].residence is None
        await gateway.chat()
        await asyncio.sleep(0.3)
        assert demands(gateway) == []

    serve(scenario)


def test_a_model_that_is_not_loaded_is_no_reason_not_to_be_ready(away):
    async def scenario(gateway):
        assert (await gateway.request("GET", "/ready")).status == 200
        for name in ("queued", "starting", "failed"):
            told(gateway, name)
            await until(lambda name=name: state(gateway) == name, "it is told")
            assert (await gateway.request("GET", "/ready")).status == 200
        assert gateway.app._heartbeat(False).ready

    away(scenario)


def test_a_worker_that_begins_while_a_resident_model_is_swapped_is_ready(away):
    """It replaces another one at a reload, which waits for no load."""
    resident = Model(model_id="m")
    other = AdditionalModel(model_id="other", task="generate", load="on_demand")

    async def scenario(gateway):
        gateway.tell(EngineState("unloaded", "x", time.time(), 1))
        for name in ("draining", "unloaded", "queued", "starting", "failed"):
            gateway.tell(EngineState(name, "x", time.time(), loads=2, unloads=1))
            await until(lambda name=name: state(gateway) == name, "it is told")
            assert gateway.app._heartbeat(False).ready
        gateway.tell(EngineState("starting", "x", time.time(), loads=1))
        await until(lambda: gateway.app.models[0].state.unloads == 0, "it is told")
        assert not gateway.app._heartbeat(False).ready

    away(scenario, model=resident, models=[other])


@pytest.mark.parametrize("name", ["unloaded", "queued", "starting", "failed"])
def test_an_unknown_stream_is_refused_while_a_model_is_away(away, name):
    async def scenario(gateway):
        await loaded(gateway)
        await unloaded(gateway)
        told(gateway, name)
        await until(lambda: state(gateway) == name, "it is told")
        unknown = await gateway.request("GET", CHAT, last_event_id="x:1")
        assert (unknown.status, unknown.error["code"]) == (404, "stream_not_found")

    away(scenario)


def test_the_text_side_of_an_unloaded_model_is_dropped_and_read_again(away, monkeypatch):
    monkeypatch.setattr(served_model, "_TEXT_KEPT_S", 0.2)
    body = {"model": "m", "prompt": "x"}

    async def scenario(gateway):
        await loaded(gateway)
        model = gateway.app.models[0]
        # Also what is remembered of requests from the cache.
        for _ in range(3):
            await gateway.chat("again", temperature=0)
        held = weakref.ref(model.text.tokenizer)
        await unloaded(gateway)
        await until(lambda: model.text is None, "it is dropped")
        await until(lambda: held() is None, "nothing refers to it")
        gateway.heard.clear()
        assert (await post(gateway, "/tokenize", body)).status == 200
        again = await gateway.chat("again", temperature=0)
        assert again.headers["x-vgate-cache"] == "hit"
        assert model.state.state == "unloaded"
        card = (await gateway.request("GET", "/v1/models")).json["data"][0]
        assert card["created"] > 0
        protocol, task = gateway.begin_chat("new")
        await waits(gateway)
        assert not model.residence.visitors
        await loaded(gateway)
        await asyncio.wait_for(task, 20)
        assert protocol.status == 200

    away(scenario, cache=Cache())


def test_inputs_that_come_after_their_model_is_unloaded_are_no_new_request(away):
    model = Model(model_id="m", task="embed", load="on_demand")
    body = json.dumps({"model": "m", "input": [f"input {n}" for n in range(100)]}).encode()
    slow = DryRun(step_ms=20, prefill_tokens_per_s=1e9)

    async def scenario(gateway):
        await loaded(gateway)
        pool = gateway.app.models[0].engine
        protocol, task = gateway.begin("POST", "/v1/embeddings", body)
        await until(lambda: pool.in_flight, "it runs")
        swap = asyncio.ensure_future(unloaded(gateway))
        await waits(gateway)
        # Nobody else may wait.
        refused = await gateway.request("POST", "/v1/embeddings", body)
        assert refused.status == 503
        await swap
        await loaded(gateway)
        await asyncio.wait_for(task, 20)
        assert len(protocol.json["data"]) == 100

    batch = Batch(max_num_seqs=4, max_queue_size=128)
    away(scenario, model=model, dry_run=slow, batch=batch, residency=Residency(max_waiting=1))


def test_a_stream_hears_of_those_before_it(away):
    async def scenario(gateway):
        begun = [gateway.begin_chat("x", stream=True) for _ in range(3)]
        for place, said in ((1, b"1 request before this one"), (2, b"2 requests before this one")):
            protocol = begun[place][0]
            await until(lambda p=protocol, s=said: s in p.body, "it is told its place")
        assert b"before this one" not in begun[0][0].body
        begun[0][0].disconnected.set_result(None)
        await until(lambda: begun[1][0].body.endswith(b": the model m is not loaded yet\n\n"), "")
        await loaded(gateway)
        for _, task in begun:
            await asyncio.wait_for(task, 20)

    away(scenario)


@pytest.mark.parametrize("text_is_there", [False, True])
def test_no_stream_is_opened_early_where_quiet_streams_are_let_be(away, text_is_there):
    async def scenario(gateway):
        if text_is_there:
            await loaded(gateway)
            await unloaded(gateway)
        protocol, task = gateway.begin_chat("x", stream=True)
        await waits(gateway)
        await asyncio.sleep(0.3)
        assert protocol.status is None
        told(gateway, "failed", "the GPU is too small")
        await asyncio.wait_for(task, 20)
        assert protocol.status == 503

    away(scenario, server=Server(workers=1, stream_keepalive_s=0))


@pytest.mark.parametrize("text_is_there", [False, True])
def test_an_admin_sees_and_ends_one_that_waits(away, text_is_there):
    async def scenario(gateway):
        if text_is_there:
            await loaded(gateway)
            await unloaded(gateway)
        protocol, task = gateway.begin("POST", CHAT, chat_body(gateway, "x"), x_request_id="r1")
        await waits(gateway)
        (listed,) = (await gateway.request("GET", "/admin/requests")).json["data"]
        assert (listed["id"], listed["state"], listed["served_model"]) == ("r1", "waiting", "m")
        assert (await gateway.request("POST", "/admin/requests/r1/cancel")).status == 200
        await asyncio.wait_for(task, 20)
        assert (protocol.status, protocol.error["code"]) == (403, "cancelled_by_admin")
        await waits(gateway, 0)

    away(scenario)


def test_a_resident_model_on_its_way_back_is_no_reason_not_to_be_ready(away, monkeypatch):
    monkeypatch.setattr(served_model, "_TEXT_KEPT_S", 0.05)

    async def scenario(gateway):
        told(gateway, "starting")
        await until(lambda: state(gateway) == "starting", "it is told")
        assert (await gateway.request("GET", "/ready")).status == 503
        await loaded(gateway)
        await gateway.chat()
        await unloaded(gateway)
        await until(lambda: gateway.app.models[0].text is None, "its text side is dropped")
        for name in ("queued", "starting", "ready"):
            told(gateway, name)
            await until(lambda name=name: state(gateway) == name, "it is told")
            assert (await gateway.request("GET", "/ready")).status == 200
        told(gateway, "restarting")
        await until(lambda: state(gateway) == "restarting", "it is told")
        assert (await gateway.request("GET", "/ready")).status == 503

    away(scenario, model=Model(model_id="m"), residency=Residency(memory_bytes=1 << 30))
