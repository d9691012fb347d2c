"""The Messages endpoints on a worker in this process; its engine repeats the user's message."""

import json
from typing import Any

import pytest

from tests.frontend.gateway import Gateway, Protocol, until
from vgate.config.model import Model
from vgate.config.schema import Cache, DryRun, RateLimiting, Security, Server
from vgate.frontend.text import ChatTemplate
from vgate.keys import ConfiguredKey

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
TOOL = {"name": "look_up", "input_schema": {"type": "object", "properties": {"q": {}}}}
CALL = '<tool_call>{"name": "look_up", "arguments": {"q": "x"}}</tool_call>'
# Nothing to tell how much to think.
PLAIN_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}<|assistant|>"
)


def body(gateway: Gateway, text: str = "Hello!", **fields: Any) -> bytes:
    asked = {
        "model": gateway.config.model.served_names[0],
        "max_tokens": 500,
        "messages": [{"role": "user", "content": text}],
        **fields,
    }
    return json.dumps(asked).encode()


async def ask(gateway: Gateway, text: str = "Hello!", **fields: Any) -> Protocol:
    return await gateway.request("POST", MESSAGES, body(gateway, text, **fields))


async def count(gateway: Gateway, text: str = "Hello!", **fields: Any) -> Protocol:
    asked = json.loads(body(gateway, text, **fields))
    asked.pop("max_tokens")
    return await gateway.request("POST", COUNT, json.dumps(asked).encode())


def events_of(answer: Protocol) -> list[dict[str, Any]]:
    frames = answer.body.decode().split("\n\n")
    assert frames.pop() == ""
    return [json.loads(frame.split("\n")[1].removeprefix("data: ")) for frame in frames]


def streamed_blocks(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Return the type of each block, and its deltas joined."""
    blocks: list[tuple[str, str]] = []
    for event in events:
        if event["type"] == "content_block_start":
            blocks.append((event["content_block"]["type"], ""))
        elif event["type"] == "content_block_delta":
            delta = event["delta"]
            more = delta.get("text") or delta.get("thinking") or delta.get("partial_json") or ""
            blocks[-1] = (blocks[-1][0], blocks[-1][1] + more)
    return blocks


def test_a_non_streaming_answer(serve):
    async def scenario(gateway):
        answer = await ask(gateway)
        assert answer.status == 200
        assert answer.headers["request-id"] == answer.headers["x-request-id"]
        message = answer.json
        assert message["content"] == [{"type": "text", "text": "Hello!"}]
        assert (message["stop_reason"], message["role"]) == ("end_turn", "assistant")
        assert message["model"] == gateway.config.model.served_names[0]
        assert message["usage"]["input_tokens"] == len("Hello!") + 3
        assert message["usage"]["output_tokens"] == len("Hello!") + 1

    serve(scenario)


def test_a_stream(serve):
    async def scenario(gateway):
        answer = await ask(gateway, stream=True)
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["request-id"] == answer.headers["x-request-id"]
        events = events_of(answer)
        assert events[0]["message"]["usage"]["input_tokens"] == len("Hello!") + 3
        assert streamed_blocks(events) == [("text", "Hello!")]
        assert events[-2]["usage"]["output_tokens"] == len("Hello!") + 1
        assert events[-1] == {"type": "message_stop"}

    serve(scenario)


@pytest.mark.parametrize(
    ("fields", "reason", "sequence", "text"),
    [
        ({"max_tokens": 3}, "max_tokens", None, "Hel"),
        ({"stop_sequences": ["x", "lo"]}, "stop_sequence", "lo", "Hel"),
        ({"stop_sequences": ["x"]}, "end_turn", None, "Hello!"),
    ],
)
def test_ends(serve, fields, reason, sequence, text):
    async def scenario(gateway):
        message = (await ask(gateway, **fields)).json
        assert (message["stop_reason"], message["stop_sequence"]) == (reason, sequence)
        assert message["content"][0]["text"] == text
        events = events_of(await ask(gateway, stream=True, **fields))
        assert events[-2]["delta"] == {"stop_reason": reason, "stop_sequence": sequence}
        assert streamed_blocks(events) == [("text", text)]

    serve(scenario)


def test_an_answer_continues_the_assistant_s_message(serve):
    async def scenario(gateway):
        turn = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "The best"}]
        assert (await ask(gateway, messages=turn)).status == 200
        # No end of the assistant's message, and no beginning of another one.
        counted = (await count(gateway, messages=turn)).json["input_tokens"]
        assert counted == len("Hi") + len("The best") + 3

    serve(scenario)


@pytest.mark.parametrize("choice", [None, {"type": "auto", "disable_parallel_tool_use": True}])
def test_calls(serve, choice):
    async def scenario(gateway):
        fields = {"tools": [TOOL], **({"tool_choice": choice} if choice else {})}
        message = (await ask(gateway, f"Well. {CALL}{CALL}", **fields)).json
        assert message["stop_reason"] == "tool_use"
        text, *calls = message["content"]
        assert text["text"].strip() == "Well."
        assert len(calls) == (1 if choice else 2)
        for call in calls:
            assert (call["type"], call["name"], call["input"]) == (
                "tool_use",
                "look_up",
                {"q": "x"},
            )
        events = events_of(await ask(gateway, f"Well. {CALL}{CALL}", stream=True, **fields))
        assert streamed_blocks(events)[1:] == [("tool_use", '{"q": "x"}')] * len(calls)
        assert events[-2]["delta"]["stop_reason"] == "tool_use"

    serve(scenario)


def test_a_truncated_call_keeps_what_is_complete(serve):
    async def scenario(gateway):
        text = '<tool_call>{"name": "look_up", "arguments": {"q": "x", "r": "yyyyyyyyyyyyyyyyy'
        message = (await ask(gateway, text, tools=[TOOL], max_tokens=70)).json
        assert message["stop_reason"] == "max_tokens"
        assert message["content"][0]["input"] == {"q": "x"}

    serve(scenario)


def test_thinking(serve):
    async def scenario(gateway):
        for thinking in (None, {"type": "enabled", "budget_tokens": 1024}, {"type": "adaptive"}):
            fields = {"max_tokens": 1500, **({"thinking": thinking} if thinking else {})}
            message = (await ask(gateway, "<think>Hm.</think>Yes.", **fields)).json
            thought, text = message["content"]
            assert (thought["type"], thought["thinking"]) == ("thinking", "Hm.")
            assert thought["signature"]
            assert text["text"] == "Yes."
            assert message["usage"]["output_tokens_details"]["thinking_tokens"] > 0
            events = events_of(await ask(gateway, "<think>Hm.</think>Yes.", stream=True, **fields))
            assert streamed_blocks(events) == [("thinking", "Hm."), ("text", "Yes.")]

    serve(scenario)


def test_omitted_thinking(serve):
    async def scenario(gateway):
        thinking = {"type": "adaptive", "display": "omitted"}
        message = (await ask(gateway, "<think>Hm.</think>Yes.", thinking=thinking)).json
        assert [block["type"] for block in message["content"]] == ["text"]

    serve(scenario)


def test_no_thinking(serve):
    async def scenario(gateway):
        plain = (await count(gateway)).json["input_tokens"]
        silenced = (await count(gateway, thinking={"type": "disabled"})).json["input_tokens"]
        assert silenced == plain + len("<think></think>")

    serve(scenario)


def test_a_model_that_does_not_think(serve):
    async def scenario(gateway):
        text = gateway.app.models[0].text
        text.template = text.tool_template = ChatTemplate(PLAIN_TEMPLATE, {})
        text.reasons = False
        for thinking in ({"type": "disabled"}, {"type": "adaptive"}):
            assert (await ask(gateway, thinking=thinking)).status == 200
        told = await ask(gateway, thinking={"type": "enabled", "budget_tokens": 1024})
        assert (told.status, told.headers["x-vgate-ignored"]) == (200, "thinking")
        told = await ask(gateway, output_config={"effort": "low"})
        assert (told.status, told.headers["x-vgate-ignored"]) == (200, "output_config.effort")
        # Nor does its template show tools, so that they stand in the system message.
        assert (await ask(gateway, tools=[TOOL])).status == 200
        plain = (await count(gateway)).json["input_tokens"]
        described = (await count(gateway, tools=[TOOL])).json["input_tokens"]
        assert described > plain + len(TOOL["name"])

    serve(scenario)


def test_tokens_are_counted_without_generating(serve):
    async def scenario(gateway):
        for fields in ({}, {"system": "Be brief."}, {"tools": [TOOL]}, {"text": "x" * 300}):
            counted = await count(gateway, **fields)
            message = (await ask(gateway, **fields)).json
            assert counted.json == {"input_tokens": message["usage"]["input_tokens"]}
            assert counted.headers["request-id"] == counted.headers["x-request-id"]
        scheduler = gateway.engine.scheduler
        assert (scheduler.waiting, len(scheduler.running)) == (0, 0)

    serve(scenario)


def test_a_prompt_longer_than_the_context_is_counted_but_not_answered(serve):
    async def scenario(gateway):
        text = "x" * 200
        assert (await count(gateway, text)).json["input_tokens"] > 99
        refused = await ask(gateway, text, max_tokens=5)
        assert (refused.status, refused.error["type"]) == (400, "invalid_request_error")

    serve(scenario, model=Model(max_model_len=99))


def test_an_answer_from_the_cache(serve):
    async def scenario(gateway):
        first = await ask(gateway)
        again = await ask(gateway)
        assert again.headers["x-vgate-cache"] == "hit"
        assert again.json["content"] == first.json["content"]
        assert again.json["id"] != first.json["id"]
        streamed = await ask(gateway, stream=True)
        assert streamed.headers["x-vgate-cache"] == "hit"
        assert streamed_blocks(events_of(streamed)) == [("text", "Hello!")]

    serve(scenario, cache=Cache(enabled=True))


class TestErrors:
    async def refused(self, answer: Protocol, status: int, kind: str) -> str:
        assert answer.status == status
        assert answer.json.keys() == {"type", "error", "request_id"}
        assert answer.json["type"] == "error"
        assert answer.error["type"] == kind
        assert answer.json["request_id"] == answer.headers["request-id"]
        message: str = answer.error["message"]
        return message

    def test_of_the_request(self, serve):
        async def scenario(gateway):
            invalid, missing = "invalid_request_error", "not_found_error"
            message = await self.refused(await ask(gateway, temperature=-1), 400, invalid)
            assert message.startswith("`temperature` ")
            await self.refused(await gateway.request("POST", MESSAGES, b"{"), 400, invalid)
            await self.refused(await ask(gateway, model="other"), 404, missing)
            await self.refused(await count(gateway, model="other"), 404, missing)
            await self.refused(await gateway.request("GET", MESSAGES), 405, invalid)
            await self.refused(await gateway.request("POST", f"{MESSAGES}/batches"), 404, missing)

        serve(scenario, server=Server(any_model_name=False))

    def test_elsewhere_are_openai_s(self, serve):
        async def scenario(gateway):
            for path in ("/v1/messagesx", "/v1/models/x", "/v1/nothing"):
                answer = await gateway.request("GET", path)
                assert "request-id" not in answer.headers
                assert answer.error["code"]

        serve(scenario)

    def test_without_an_engine(self, serve):
        async def scenario(gateway):
            gateway.tell_state("starting")
            for stream in (False, True):
                answer = await ask(gateway, stream=stream)
                await self.refused(answer, 503, "overloaded_error")
                assert int(answer.headers["retry-after"]) > 0

        serve(scenario, engine=False)

    def test_in_a_stream(self, serve):
        async def scenario(gateway):
            protocol, task = gateway.begin("POST", MESSAGES, body(gateway, "x" * 400, stream=True))
            await until(lambda: len(protocol.parts) > 3, "some of the answer")
            gateway.app.draining.end_requests()
            await task
            events = events_of(protocol)
            assert events[-1]["type"] == "error"
            assert events[-1]["error"]["type"] == "overloaded_error"
            assert events[-1]["request_id"] == protocol.headers["x-request-id"]
            assert "message_stop" not in {event["type"] for event in events}

        serve(scenario, dry_run=DryRun(step_ms=5, prefill_tokens_per_s=1e9))


class TestKeys:
    KEY = "sk-messages-key-0123456789"

    @pytest.mark.parametrize(
        ("headers", "status"),
        [
            ({"x_api_key": KEY}, 200),
            ({"x_api_key": f" {KEY} "}, 200),
            ({"authorization": f"Bearer {KEY}"}, 200),
            # If both are sent, the standard's header counts.
            ({"authorization": f"Bearer {KEY}", "x_api_key": "another"}, 200),
            ({"authorization": "Bearer another", "x_api_key": KEY}, 401),
            ({"x_api_key": "another"}, 401),
            ({"x_api_key": ""}, 401),
            ({}, 401),
        ],
    )
    def test_either_header(self, serve, headers, status):
        async def scenario(gateway):
            for path in (MESSAGES, COUNT):
                asked = json.loads(body(gateway))
                if path == COUNT:
                    del asked["max_tokens"]
                answer = await gateway.request("POST", path, json.dumps(asked).encode(), **headers)
                assert answer.status == status
                if status == 401:
                    assert answer.error["type"] == "authentication_error"
                    assert answer.headers["request-id"]

        security = Security(enabled=True, api_keys=[ConfiguredKey(name="k", key=self.KEY)])
        serve(scenario, security=security)

    def test_a_limit(self, serve):
        async def scenario(gateway):
            headers = {"x_api_key": self.KEY}
            first = await gateway.request("POST", MESSAGES, body(gateway), **headers)
            assert first.status == 200
            second = await gateway.request("POST", MESSAGES, body(gateway), **headers)
            assert (second.status, second.error["type"]) == (429, "rate_limit_error")
            assert int(second.headers["retry-after"]) > 0

        key = ConfiguredKey(name="k", key=self.KEY, rate_limit=1)
        security = Security(enabled=True, api_keys=[key], rate_limiting=RateLimiting(enabled=True))
        serve(scenario, security=security)
