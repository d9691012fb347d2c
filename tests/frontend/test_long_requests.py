"""Requests of megabytes: what they are told, what they hold, and that nobody waits for them."""

import asyncio
import json
import random
import threading

import pytest

from tests.frontend.gateway import chat_body, post, until
from tests.frontend.watchdog import watched
from vgate.config.schema import MIB, Model, Server
from vgate.frontend.text import slices
from vgate.frontend.text.library_tokenizer import LibraryTokenizer

# What takes 20 ms on an idle machine.
HOLD_S = 0.25
SIZE = 8 * MIB - 1000
USER = {"role": "user", "content": "a"}
CHAT = "/v1/chat/completions"


def words():
    picked = random.Random(1)
    return " ".join(f"{picked.getrandbits(32):08x}" for _ in range(SIZE // 9))


def repeated(before, item, after, size=SIZE):
    return (before + ",".join([item] * (size // (len(item) + 1))) + after).encode()


def body(**fields):
    return json.dumps({**fields}, ensure_ascii=False).encode()


def called(arguments):
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": arguments}}
    return body(messages=[USER, {"role": "assistant", "tool_calls": [call]}])


BODIES = {
    "enum": lambda: (CHAT, repeated(
        '{"messages":[{"role":"user","content":"a"}],"response_format":{"type":"json_schema",'
        '"json_schema":{"name":"x","schema":{"enum":[', "1", "]}}}}")),
    "calls": lambda: ("/v1/responses", repeated(
        '{"input":[', '{"type":"function_call","call_id":"a","name":"a","arguments":""}', "]}")),
    "parts": lambda: (CHAT, repeated(
        '{"messages":[{"role":"user","content":[', '{"type":"text","text":""}', "]}]}")),
    "messages": lambda: (CHAT, repeated(
        '{"messages":[', '{"role":"user","content":""}', "]}")),
    "most messages": lambda: (CHAT, repeated(
        '{"messages":[', '{"role":"user","content":""}', "]}", 400_000)),
    "most calls": lambda: ("/v1/responses", repeated(
        '{"input":[', '{"type":"function_call","call_id":"a","name":"a","arguments":""}', "]}",
        480_000)),
    "unknown fields": lambda: (CHAT, repeated(
        '{"messages":[', '{"role":"user","content":"a","unknown":1}', "]}", 450_000)),
    "words": lambda: (CHAT, body(messages=[{"role": "user", "content": words()}])),
    "one word": lambda: (CHAT, body(messages=[{"role": "user", "content": "a" * SIZE}])),
    "characters": lambda: (CHAT, body(messages=[{"role": "user", "content": "中" * (SIZE // 3)}])),
    "special tokens": lambda: (
        CHAT, body(messages=[{"role": "user", "content": "<|end|>" * (SIZE // 8)}])),
    "prompt": lambda: ("/v1/completions", body(prompt=words())),
    "cut prompt": lambda: ("/v1/completions", body(prompt=words(), truncate_prompt_tokens=9)),
    "oldest dropped": lambda: ("/v1/responses", body(
        input=[{"role": "user", "content": "a b " * 200}] * 9000, truncation="auto")),
    "schema as text": lambda: (CHAT, body(
        messages=[USER], structured_outputs={"json": '{"enum":[' + "1," * (SIZE // 2) + "1]}"})),
    "arguments as text": lambda: (CHAT, called('{"a":[' + "1," * (SIZE // 2) + "1]}")),
    "tokenised": lambda: ("/tokenize", body(prompt=words())),
    "counted": lambda: ("/v1/messages/count_tokens", body(
        messages=[{"role": "user", "content": words()}])),
    "no JSON": lambda: (CHAT, b'{"messages":' + b"\0" * SIZE),
    "a wrong text": lambda: (CHAT, b'"' + b"\\n" * (SIZE // 2) + b'"'),
    "a long number": lambda: (CHAT, b'{"n":' + b"9" * SIZE + b"}"),
}  # fmt: skip


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
