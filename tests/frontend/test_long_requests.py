"""Requests of megabytes: what they are told, what they hold, and that nobody waits for them."""

import asyncio
import gzip
import json
import threading
from collections import Counter

import pytest

from bench.neighbour.bodies import BODIES, CHAT, RESPONSES, body
from tests.frontend.gateway import chat_body, post, until
from tests.frontend.watchdog import watched
from vgate.config.model import Model
from vgate.config.schema import Server
from vgate.config.section import MIB
from vgate.errors import EngineUnavailableError
from vgate.frontend.apis.openai.responses import stored
from vgate.frontend.engines.pool import EnginePool
from vgate.frontend.http import SMALL_BYTES, HttpRequest, long_work
from vgate.frontend.pipeline import prepare
from vgate.frontend.pipeline import serve as serve_module
from vgate.frontend.text import slices
from vgate.frontend.text.library_tokenizer import LibraryTokenizer
from vgate.frontend.text.piece_encoder import PieceEncoder
from vgate.wire.codec import encode

# What takes 20 ms on an idle machine.
HOLD_S = 0.25


@pytest.mark.slow
@pytest.mark.parametrize("kind", BODIES)
def test_no_body_holds_a_worker_up(serve, kind):
    path, content = BODIES[kind]()

    async def scenario(gateway):
        await gateway.chat()
        async with watched() as hold:
            answer = await post(gateway, path, content)
        assert answer.status in {200, 400, 413}
        assert hold.longest_s < HOLD_S

    serve(scenario)


def test_a_prompt_that_can_only_be_too_long_is_not_tokenised(serve, monkeypatch):
    def fail(*_):
        raise AssertionError

    async def scenario(gateway):
        text = "word " * 100_000
        for path, fields, param in (
            (CHAT, {"messages": [{"role": "user", "content": text}]}, "messages"),
            ("/v1/completions", {"prompt": [text]}, "prompt"),
        ):
            answer = await post(gateway, path, body(**fields))
            error = answer.error
            assert (answer.status, error["code"], error["param"]) == (
                400,
                "context_length_exceeded",
                param,
            )
            assert "maximum context length is 2048 tokens. However, your" in error["message"]
            assert "resulted in at least" in error["message"]

    monkeypatch.setattr(slices.Slices, "of", fail)
    serve(scenario)


@pytest.mark.parametrize(
    ("path", "fields", "task"),
    [
        ("/tokenize", {"prompt": "word " * 8_000}, "generate"),
        ("/tokenize", {"messages": [{"role": "user", "content": "word " * 8_000}]}, "generate"),
        ("/v1/embeddings", {"input": ["word " * 400] * 20}, "embed"),
    ],
)
def test_a_few_thousand_tokens_are_made_on_a_thread(serve, monkeypatch, path, fields, task):
    threads = []
    encode = LibraryTokenizer.encode_batch

    def recorded(*given, **named):
        threads.append(threading.current_thread())
        return encode(*given, **named)

    monkeypatch.setattr(LibraryTokenizer, "encode_batch", recorded)

    async def scenario(gateway):
        # Shorter than what is long for its number of bytes.
        content = body(**fields)
        assert len(content) < 65_536
        assert (await post(gateway, path, content)).status == 200
        assert threads
        assert threading.main_thread() not in threads

    serve(scenario, model=Model(task=task))


@pytest.mark.parametrize("turns", [100, 1])
def test_the_turns_of_a_conversation_are_tokenised_a_few_at_a_time(serve, monkeypatch, turns):
    learn, begin, render = PieceEncoder._learn, long_work.Turns.begin, prepare.render
    learnt, rendered, threads = [0], [], set()

    def recorded(self, piece, scope):
        learnt[-1] += len(piece)
        threads.add(threading.current_thread())
        return learn(self, piece, scope)

    def begun(self, key):
        learnt.append(0)
        return begin(self, key)

    def once(*given, **named):
        rendered.append(threading.current_thread())
        return render(*given, **named)

    monkeypatch.setattr(PieceEncoder, "_learn", recorded)
    monkeypatch.setattr(long_work.Turns, "begin", begun)
    monkeypatch.setattr(prepare, "render", once)
    texts = [f"{turn} {'word ' * (6_000 // turns)}" for turn in range(turns)]

    async def scenario(gateway):
        messages = [{"role": "user", "content": text} for text in texts]
        content = body(messages=messages, max_tokens=1)
        assert len(content) < SMALL_BYTES
        assert (await post(gateway, CHAT, content)).status == 200
        assert rendered == [threading.main_thread()]
        if turns > 1:
            assert sum(learnt) > prepare.INLINE_CHARS
            assert max(learnt) <= prepare.INLINE_CHARS
            assert threads == {threading.main_thread()}
        else:
            # It can't be tokenised in part.
            assert threading.main_thread() not in threads

    serve(scenario, model=Model(max_model_len=65_536))


def off_loop(monkeypatch, module, name):
    """Return what tells whether a function was called, and on other threads than the loop's."""
    loop, threads, function = threading.current_thread(), [], getattr(module, name)

    def recorded(*given, **named):
        threads.append(threading.current_thread())
        return function(*given, **named)

    monkeypatch.setattr(module, name, recorded)
    return lambda: bool(threads) and loop not in threads


@pytest.mark.parametrize("name", ["check_items", "decompressed", "_joined"])
def test_a_long_body_is_made_ready_on_a_thread(serve, monkeypatch, name):
    is_off_loop = off_loop(monkeypatch, long_work, name)

    async def scenario(gateway):
        content = body(messages=[{"role": "user", "content": "a" * 2 * MIB}])
        coded = {"content_encoding": "gzip"} if name == "decompressed" else {}
        answer = await post(gateway, CHAT, gzip.compress(content) if coded else content, **coded)
        assert answer.status == 400
        assert is_off_loop()

    serve(scenario)


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/detokenize", {"tokens": [97] * 30_000}),
        ("/v1/completions", {"prompt": [97] * 30_000, "echo": True, "max_tokens": 1}),
        (
            "/v1/completions",
            {"prompt": [97] * 30_000, "echo": True, "max_tokens": 1, "stream": True},
        ),
    ],
)
def test_many_tokens_become_text_on_a_thread(serve, monkeypatch, path, fields):
    is_off_loop = off_loop(monkeypatch, LibraryTokenizer, "decode_many")

    async def scenario(gateway):
        content = body(**fields)
        assert len(content) > SMALL_BYTES
        answer = await post(gateway, path, content)
        assert answer.status == 200
        assert b"a" * 30_000 in answer.body
        assert is_off_loop()

    serve(scenario, model=Model(max_model_len=40_000))


def test_a_body_in_pieces_that_ends_too_early_is_refused(serve):
    async def scenario(gateway):
        pieces = [b"{" + b" " * MIB, b" " * MIB]
        length = str(2 * MIB + 2)
        answer = await gateway.request("POST", CHAT, pieces, content_length=length)
        assert answer.status == 400
        assert "shorter than its Content-Length" in answer.error["message"]

    serve(scenario)


def test_a_long_stored_conversation_is_read_on_a_thread(serve, monkeypatch):
    is_off_loop = off_loop(monkeypatch, stored, "_decode_items")

    async def scenario(gateway):
        item = {"role": "user", "content": "a" * 1000}
        first = await post(gateway, RESPONSES, {"input": [item] * 70, "truncation": "auto"})
        name = first.json["id"]
        again = {"input": "b", "previous_response_id": name, "truncation": "auto"}
        reference = {"type": "item_reference", "id": first.json["output"][0]["id"]}
        for request in (again, {"input": [reference, item]}):
            assert (await post(gateway, RESPONSES, request)).status == 200
            assert is_off_loop()
        listed = await gateway.request("GET", f"{RESPONSES}/{name}/input_items")
        assert len(listed.json["data"]) == 20
        assert is_off_loop()

    serve(scenario)


@pytest.mark.parametrize(
    ("limits", "setting"),
    [({"max_body_bytes": 20_000}, "max_body_bytes"), ({"max_items": 1024}, "max_items")],
)
@pytest.mark.parametrize("by", ["previous_response_id", "item_reference"])
def test_what_a_request_continues_is_bounded_as_its_body_is(serve, limits, setting, by):
    """Each turn adds to a conversation, of which the next request only has the name."""
    # Its template's prompt has nothing of them.
    items = [{"type": "reasoning", "encrypted_content": "a" * 100}] * 90

    async def scenario(gateway):
        statuses, names, first = [], [], {"role": "user", "content": "a"}
        for _ in range(4):
            fields = {"input": [*items, first]}
            if by == "previous_response_id" and names:
                fields["previous_response_id"] = names[-1]["id"]
            elif names:
                refs = [{"type": "item_reference", "id": of["output"][0]["id"]} for of in names]
                fields = {"input": refs}
            answer = await post(gateway, RESPONSES, fields)
            statuses.append(answer.status)
            if answer.status != 200:
                assert answer.error["code"] == "payload_too_large"
                assert f"server.{setting}" in answer.error["message"]
                break
            if by == "item_reference":
                answer = await post(gateway, RESPONSES, {"input": [*items, first]})
            names.append(answer.json)
        assert len(statuses) > 1
        assert statuses[-1] == 413
        assert gateway.app.memory.held_bytes == 0

    serve(scenario, server=Server(**limits))


@pytest.mark.parametrize("read", ["continued", "listed", "taken up"])
def test_what_earlier_requests_left_counts_as_memory(serve, monkeypatch, read):
    held = []
    hold = HttpRequest.hold
    monkeypatch.setattr(HttpRequest, "hold", lambda http, n: (held.append(n), hold(http, n))[1])

    async def scenario(gateway):
        text = "a" * 500
        headers = {"x_vgate_resumable": "true"} if read == "taken up" else {}
        sent = {"input": text, "stream": read == "taken up"}
        first = await post(gateway, RESPONSES, body(**sent), **headers)
        held.clear()
        if read == "taken up":
            stream = first.headers["x-request-id"]
            again = await gateway.request("GET", RESPONSES, b"", last_event_id=stream)
        elif read == "listed":
            again = await gateway.request("GET", f"{RESPONSES}/{first.json['id']}/input_items")
        else:
            name = first.json["id"]
            again = await post(gateway, RESPONSES, {"input": "b", "previous_response_id": name})
        assert again.status == 200
        assert max(held) > len(text)
        assert gateway.app.memory.held_bytes == 0

    serve(scenario)


def test_a_text_that_no_tokenizer_takes_whole_is_refused(serve, monkeypatch):
    monkeypatch.setattr(slices, "MAX_UNCUT_CHARS", 50_000)

    async def scenario(gateway):
        fields = {"prompt": "word " * 20_000, "truncate_prompt_tokens": 9}
        answer = await post(gateway, "/v1/completions", body(**fields))
        assert (answer.status, answer.error["param"]) == (400, "prompt")
        assert "50000 characters" in answer.error["message"]

    serve(scenario)


def test_a_worker_holds_so_much_memory_and_no_more(serve):
    async def scenario(gateway):
        large = chat_body(gateway, "a" * 100_000)
        # The first one is let in although it alone is more than the limit, and stays.
        protocol, first = gateway.begin("POST", CHAT, large)
        await asyncio.sleep(0)
        refused = await post(gateway, CHAT, large)
        assert (refused.status, refused.error["code"]) == (503, "worker_memory")
        assert refused.headers["retry-after"] == "1"
        assert "server.max_memory_bytes" in refused.error["message"]
        await first
        assert protocol.status == 400
        # Nothing is held once they have ended.
        assert (await post(gateway, CHAT, large)).status == 400
        assert (await gateway.chat()).status == 200

    serve(scenario, server=Server(max_memory_bytes=MIB))


def test_a_client_that_left_is_not_waited_for(serve):
    async def scenario(gateway):
        large = body(prompt="word " * 50_000)
        begun = [gateway.begin("POST", "/tokenize", large) for _ in range(20)]
        await until(lambda: all(p.disconnected for p, _ in begun[4:]), "all are watched")
        for protocol, _ in begun:
            if protocol.disconnected is not None and not protocol.disconnected.done():
                protocol.disconnected.set_result(None)
        await asyncio.gather(*(task for _, task in begun))
        assert sum(protocol.status is None for protocol, _ in begun) > 9
        assert (await gateway.chat()).status == 200

    serve(scenario)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt": [97] * 10_000},
        {"prompt": "a", "structured_outputs": {"json": {"description": "a" * 40_000}}},
    ],
)
def test_many_copies_of_a_request_are_sent_in_several_turns(serve, monkeypatch, fields):
    turns, sent, submit = Counter(), Counter(), EnginePool.submit
    largest = 100_000

    def recorded(pool, sequence, message, timeout_s):
        submit(pool, sequence, message, timeout_s)
        sent[turns.total()] += len(encode(message))

    monkeypatch.setattr(EnginePool, "submit", recorded)
    monkeypatch.setattr(serve_module, "_SENT_AT_ONCE_BYTES", largest)

    async def scenario(gateway):
        def next_turn():
            turns.update("a")
            asyncio.get_running_loop().call_soon(next_turn)

        next_turn()
        for stream in (False, True):
            sent.clear()
            content = body(**fields, n=20, max_tokens=2, stream=stream)
            answer = await post(gateway, "/v1/completions", content)
            assert answer.status == 200
            assert sent.total() > 20 * 40_000
            assert max(sent.values()) < 2 * largest
        assert len(answer.events) > 20

    serve(scenario, model=Model(max_model_len=20_000))


def test_a_client_that_leaves_has_no_more_sent(serve, monkeypatch):
    sent, submit = [], EnginePool.submit

    async def scenario(gateway):
        def recorded(pool, sequence, message, timeout_s):
            submit(pool, sequence, message, timeout_s)
            sent.append(sequence)
            sequence.answer.give_up()

        monkeypatch.setattr(EnginePool, "submit", recorded)
        monkeypatch.setattr(serve_module, "_SENT_AT_ONCE_BYTES", 0)
        content = body(prompt="a", n=20, max_tokens=2)
        _, task = gateway.begin("POST", "/v1/completions", content)
        await asyncio.wait_for(task, 30)
        assert len(sent) == 1
        await until(lambda: gateway.engine.idle, "the engine has nothing left")

    serve(scenario)


def test_a_stream_whose_rest_no_engine_takes_ends_with_an_error(serve, monkeypatch):
    submit = EnginePool.submit

    def one_of_them(pool, sequence, message, timeout_s):
        if sequence.index:
            sequence.answer.keep_alive()  # which begins the stream, as a token would
            raise EngineUnavailableError("the engine takes nothing new")
        submit(pool, sequence, message, timeout_s)

    async def scenario(gateway):
        monkeypatch.setattr(EnginePool, "submit", one_of_them)
        monkeypatch.setattr(serve_module, "_SENT_AT_ONCE_BYTES", 0)
        content = body(prompt="a", n=2, max_tokens=100, stream=True)
        answer = await post(gateway, "/v1/completions", content)
        assert answer.status == 200
        assert json.loads(answer.events[-1])["error"]["code"] == "engine_unavailable"
        await until(lambda: gateway.engine.idle, "the engine has nothing left")

    serve(scenario)
