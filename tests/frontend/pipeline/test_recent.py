"""Bodies that repeat: they are decoded once, and answered as if they were decoded each time."""

import json
from unittest import mock

import msgspec
import pytest

from tests.frontend.gateway import Gateway, Protocol, chat_body, post
from vgate.config.schema import Cache
from vgate.frontend.pipeline import prepare
from vgate.frontend.pipeline.recent import RecentRequest, RecentRequests

CHAT = "/v1/chat/completions"


class Rendered:
    """Counts how often a conversation is rendered."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.times = 0
        self._render = prepare.render
        monkeypatch.setattr(prepare, "render", self)

    def __call__(self, *arguments, **more):
        self.times += 1
        return self._render(*arguments, **more)


def text_of(protocol: Protocol) -> str:
    return protocol.json["choices"][0]["message"]["content"]


async def outcome(gateway: Gateway, body: bytes, **headers: str) -> str:
    protocol = await post(gateway, CHAT, body, **headers)
    assert protocol.status == 200
    return protocol.headers["x-vgate-cache"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_body_is_rendered_no_more_once_its_answer_came_from_the_cache(serve, monkeypatch, stream):
    rendered = Rendered(monkeypatch)

    async def scenario(gateway):
        body = chat_body(gateway, "Hello!", temperature=0, stream=stream)
        answers = [await post(gateway, CHAT, body) for _ in range(5)]
        assert [a.headers["x-vgate-cache"] for a in answers] == ["miss"] + 4 * ["hit"]
        assert rendered.times == 2
        if not stream:
            assert len({text_of(answer) for answer in answers}) == 1
            assert len({answer.json["id"] for answer in answers}) == 5

    serve(scenario, cache=Cache())


def test_another_body_or_endpoint_is_another_request(serve):
    async def scenario(gateway):
        both = {"model": gateway.config.model.served_names[0], "temperature": 0, "max_tokens": 4}
        for text in ("one", "two", "one", "two", "one", "two"):
            body = json.dumps({**both, "prompt": text}).encode()
            completion = await post(gateway, "/v1/completions", body)
            chat = await gateway.chat(text, temperature=0, max_tokens=4)
            assert completion.json["object"] == "text_completion"
            assert chat.json["usage"]["prompt_tokens"] > completion.json["usage"]["prompt_tokens"]
            refused = await post(gateway, CHAT, body)
            assert refused.status == 400

    serve(scenario, cache=Cache())


def test_the_headers_of_each_request_hold(serve):
    async def scenario(gateway):
        body = chat_body(gateway, "Hello!", temperature=0)
        outcomes = [await outcome(gateway, body) for _ in range(3)]
        outcomes += [await outcome(gateway, body, cache_control="no-cache")]
        outcomes += [await outcome(gateway, body)]
        assert outcomes == ["miss", "hit", "hit", "bypass", "hit"]

    serve(scenario, cache=Cache())


def test_what_is_ignored_is_told_once_each_time(serve):
    async def scenario(gateway):
        body = chat_body(gateway, "Hello!", temperature=0, model="gpt-4o", verbosity="low")
        for _ in range(4):
            answer = await post(gateway, CHAT, body)
            told = answer.headers["x-vgate-ignored"].split(", ")
            assert sorted(told) == ["model", "verbosity"]

    serve(scenario, cache=Cache())


def test_a_model_that_changed_reads_the_body_again(serve, monkeypatch):
    rendered = Rendered(monkeypatch)

    async def scenario(gateway):
        body = chat_body(gateway, "Hello!", temperature=0)
        for _ in range(3):
            await outcome(gateway, body)
        before = rendered.times
        text = gateway.app.models[0].text
        text.info = msgspec.structs.replace(text.info)
        assert await outcome(gateway, body) == "hit"
        assert rendered.times == before + 1
        assert await outcome(gateway, body) == "hit"
        assert rendered.times == before + 1

    serve(scenario, cache=Cache())


def test_a_model_that_is_gone_is_not_found(serve):
    async def scenario(gateway):
        body = chat_body(gateway, "Hello!", temperature=0)
        for _ in range(3):
            await outcome(gateway, body)
        gateway.app.models._by_name.clear()
        gateway.app.models._any_name = False
        assert (await post(gateway, CHAT, body)).status == 404

    serve(scenario, cache=Cache())


class TestBounds:
    def keep(self, recent: RecentRequests, body: bytes) -> None:
        recent.keep(len, "", body, RecentRequest(mock.Mock(), mock.Mock(), mock.Mock()))

    def kept(self, recent: RecentRequests, *bodies: bytes) -> list[bytes]:
        return [body for body in bodies if recent.find(len, "", body)]

    def test_the_least_recently_used_goes_first(self):
        recent = RecentRequests(max_entries=2)
        self.keep(recent, b"a")
        self.keep(recent, b"b")
        assert recent.find(len, "", b"a")
        self.keep(recent, b"c")
        assert self.kept(recent, b"a", b"b", b"c") == [b"a", b"c"]

    def test_bodies_are_bounded_in_bytes(self):
        recent = RecentRequests(max_bytes=10)
        for body in (b"aaaa", b"bbbb", b"bbbb", b"cccc"):
            self.keep(recent, body)
        assert self.kept(recent, b"aaaa", b"bbbb", b"cccc") == [b"bbbb", b"cccc"]

    def test_a_long_body_pushes_out_no_other(self):
        recent = RecentRequests()
        self.keep(recent, b"a")
        self.keep(recent, 16_385 * b"d")
        assert self.kept(recent, b"a", 16_385 * b"d") == [b"a"]
