"""Anthropic's Messages API over real HTTP, with the official client."""

import json
import os
import signal
from typing import Any

import anthropic
import httpx
import pytest

from tests.e2e.instance import Instance
from tests.e2e.traffic import MODEL

KEY = "sk-e2e-messages-0123456789"
USER = {"role": "user", "content": "Good morning"}
TOOL: Any = {
    "name": "weather",
    "description": "Says how the weather is.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
CALL = '<tool_call>{"name": "weather", "arguments": {"city": "Köln"}}</tool_call>'
THOUGHT = "<think>Let me see.</think>It is fine."
PATHS = ("/v1/messages", "/v1/messages/count_tokens")


def client_of(instance: Instance, **options: Any) -> anthropic.Anthropic:
    defaults = {"base_url": instance.url, "api_key": "unused", "max_retries": 0, "timeout": 60}
    return anthropic.Anthropic(**{**defaults, **options})


@pytest.fixture(scope="module")
def client(dry_run: Instance):
    with client_of(dry_run) as client:
        yield client


def asked(text: str = "Good morning", **fields: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "max_tokens": 1500,
        "messages": [{"role": "user", "content": text}],
        **fields,
    }


def test_a_non_streaming_answer(client: anthropic.Anthropic):
    message = client.messages.create(**asked())
    assert message.id.startswith("msg_")
    assert (message.type, message.role, message.model) == ("message", "assistant", MODEL)
    (block,) = message.content
    assert (block.type, block.text) == ("text", "Good morning")
    assert (message.stop_reason, message.stop_sequence) == ("end_turn", None)
    # Prompt: two markers, the text, an end marker, the assistant's marker. Answer: text and end.
    read = message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    assert read == len("Good morning") + 3
    assert message.usage.output_tokens == len("Good morning") + 1
    assert message._request_id is not None


@pytest.mark.parametrize(
    "text",
    [
        "Grüße, 世界, مرحبا",
        "family 👩‍👩‍👧‍👦, flag 🇩🇪",
        'quotes " and \\ and \u2028 and \x01 and \t',
        "event: error\ndata: {}\n\n",
        THOUGHT,
        f"Well. {CALL}{CALL} Really.",
    ],
)
def test_a_stream_equals_the_response(client: anthropic.Anthropic, text: str):
    fields = asked(text, tools=[TOOL])
    whole = client.messages.create(**fields)
    with client.messages.stream(**fields) as stream:
        streamed = stream.get_final_message()
    kinds = ("text", "thinking", "tool_use")

    def parts(message: anthropic.types.Message) -> dict[str, Any]:
        blocks = [block.to_dict() for block in message.content]
        for block in blocks:
            block.pop("id", None)
            block.pop("parsed_output", None)
        found = {kind: [b for b in blocks if b["type"] == kind] for kind in kinds}
        # Only in a stream is text after a call a block of its own.
        return {**found, "text": "".join(block["text"] for block in found["text"])}

    assert parts(streamed) == parts(whole)
    assert streamed.stop_reason == whole.stop_reason
    assert streamed.usage.output_tokens == whole.usage.output_tokens


def test_text_is_streamed(client: anthropic.Anthropic):
    with client.messages.stream(**asked()) as stream:
        texts = list(stream.text_stream)
    assert "".join(texts) == "Good morning"
    assert len(texts) > 1


def test_thinking(client: anthropic.Anthropic):
    fields = asked(THOUGHT, thinking={"type": "enabled", "budget_tokens": 1024})
    message = client.messages.create(**fields)
    assert [block.type for block in message.content] == ["thinking", "text"]
    with client.messages.stream(**fields) as stream:
        thoughts = [event.thinking for event in stream if event.type == "thinking"]
    assert "".join(thoughts) == "Let me see."
    # Its reasoning may be sent back.
    turns = [USER, {"role": "assistant", "content": message.content}, USER]
    assert client.messages.create(**asked(messages=turns)).content


@pytest.mark.parametrize("streamed", [True, False])
def test_a_tool_is_called_and_its_result_sent_back(client: anthropic.Anthropic, streamed: bool):
    fields = asked(f"<think>Hm.</think>One moment. {CALL}", tools=[TOOL])
    if streamed:
        with client.messages.stream(**fields) as stream:
            message: Any = stream.get_final_message()
    else:
        message = client.messages.create(**fields)
    assert message.stop_reason == "tool_use"
    (call,) = [block for block in message.content if block.type == "tool_use"]
    assert (call.name, call.input) == ("weather", {"city": "Köln"})
    result = {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": [{"type": "text", "text": "Rain."}],
    }
    turns = [
        *fields["messages"],
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [result]},
    ]
    counted = client.messages.count_tokens(model=MODEL, messages=turns, tools=[TOOL])
    answer = client.messages.create(**asked(messages=turns, tools=[TOOL]))
    usage = answer.usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)
    assert counted.input_tokens > len(CALL)


@pytest.mark.parametrize("choice", [{"type": "any"}, {"type": "tool", "name": "weather"}])
def test_a_forced_call(client: anthropic.Anthropic, choice: Any):
    message = client.messages.create(**asked(tools=[TOOL], tool_choice=choice))
    assert message.stop_reason == "tool_use"
    assert [(block.type, block.name) for block in message.content] == [("tool_use", "weather")]
    with client.messages.stream(**asked(tools=[TOOL], tool_choice=choice)) as stream:
        assert stream.get_final_message().content[0].input == message.content[0].input


def test_an_output_format(client: anthropic.Anthropic):
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    form = {"format": {"type": "json_schema", "schema": schema}}
    message = client.messages.create(**asked(output_config=form))
    assert isinstance(json.loads(message.content[0].text)["a"], int)


def test_sampling(client: anthropic.Anthropic):
    message = client.messages.create(
        **asked(stop_sequences=["morn"], extra_body={"temperature": 0, "top_p": 0.5, "top_k": 5})
    )
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "morn")
    assert message.content[0].text == "Good "
    assert client.messages.create(**asked(max_tokens=1)).stop_reason == "max_tokens"


def test_tokens_are_counted(client: anthropic.Anthropic):
    counted = client.messages.count_tokens(model=MODEL, messages=[USER])
    assert counted.input_tokens == len("Good morning") + 3
    more = client.messages.count_tokens(model=MODEL, messages=[USER], system="Be brief.")
    assert more.input_tokens == counted.input_tokens + len("Be brief.") + 2


def test_a_request_of_an_agent(dry_run: Instance):
    """A beta parameter in the URL, cache markers, a system prompt of many blocks, and headers."""
    body = asked(
        system=[
            {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}},
            {"type": "text", "text": "b", "cache_control": {"type": "ephemeral", "ttl": "1h"}},
        ],
        tools=[{**TOOL, "cache_control": {"type": "ephemeral"}}],
        metadata={"user_id": "u"},
        thinking={"type": "adaptive"},
        output_config={"effort": "high"},
    )
    headers = {"anthropic-version": "2023-06-01", "anthropic-beta": "some-beta-2025-01-01"}
    for path in PATHS:
        sent = {
            k: v for k, v in body.items() if path == PATHS[0] or k not in {"max_tokens", "metadata"}
        }
        answer = httpx.post(f"{dry_run.url}{path}?beta=true", json=sent, headers=headers)
        assert answer.status_code == 200, answer.text


def test_errors_raise_the_client_s_own_exceptions(client: anthropic.Anthropic, dry_run: Instance):
    with pytest.raises(anthropic.BadRequestError) as caught:
        client.messages.create(**asked(max_tokens=0))
    assert caught.value.type == "invalid_request_error"
    assert "`max_tokens`" in str(caught.value)
    assert caught.value.request_id == caught.value.body["request_id"]
    told = client.messages.with_raw_response.create(
        **asked(model="other", tools=[{"type": "bash_20250124", "name": "bash"}])
    )
    assert told.headers["x-vgate-ignored"] == "tools[].type=bash_20250124, model"
    assert told.parse().content[0].text
    with pytest.raises(anthropic.NotFoundError):
        client.messages.batches.list()
    with pytest.raises(anthropic.ContentTooLargeError):
        client.messages.create(**asked("x" * 40_000_000))
    assert dry_run.has_problem() is None


DEEP = b'{"model": "m", "max_tokens": 5, "messages": %s, "metadata": %s, "tools": %s}'


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'{"max_tokens": 1e400, "temperature": NaN}',
        b'{"model": "%s", "max_tokens": %s}' % (MODEL.encode(), b"9" * 5000),
        b'{"model": "\\udc00", "max_tokens": 5, "messages": "\xff"}',
        DEEP % (3 * (b"[" * 200_000 + b"]" * 200_000,)),
        DEEP % (3 * (b'{"a":' * 50_000 + b"1" + b"}" * 50_000,)),
        DEEP % (3 * (b"[" * 200_000,)),
        b'{"%s": 1}' % (b"k" * 1_000_000),
        json.dumps(
            {"messages": [{"role": "user", "content": [{"type": "image"}] * 100_000}]}
        ).encode(),
        json.dumps(asked(stop_sequences=["x"] * 100_000)).encode(),
        json.dumps(asked(temperature=-1)).encode(),
        json.dumps(asked(max_tokens=10**30)).encode(),
        json.dumps(asked(tools=[{**TOOL, "input_schema": {"a": 10**30}}])).encode(),
    ],
    ids=range(16),
)
def test_no_body_causes_an_internal_error(dry_run: Instance, body: bytes):
    for path in PATHS:
        answer = httpx.post(dry_run.url + path, content=body, timeout=30)
        # A long answer is cut to what fits, and a count ignores what shapes no prompt.
        assert answer.status_code in {200, 400, 413}, (path, answer.text[:300])
        if answer.status_code == 400:
            assert answer.json()["error"]["type"] == "invalid_request_error"
    assert dry_run.has_problem() is None


@pytest.fixture(scope="module")
def secured(run_dirs):
    keys = [{"name": "a", "key": KEY}, {"name": "b", "key": f"{KEY}-b", "rate_limit": 1}]
    with Instance(
        run_dirs,
        dry_run=True,
        dry_run__step_ms=20,
        security__enabled=True,
        security__api_keys=keys,
    ) as instance:
        yield instance


class TestWithKeys:
    @pytest.mark.parametrize("options", [{"api_key": KEY}, {"api_key": None, "auth_token": KEY}])
    def test_both_headers(self, secured: Instance, options: dict[str, Any]):
        with client_of(secured, **options) as client:
            assert client.messages.create(**asked()).content[0].text == "Good morning"
            assert client.messages.count_tokens(model=MODEL, messages=[USER]).input_tokens

    def test_a_wrong_key(self, secured: Instance):
        with client_of(secured) as client, pytest.raises(anthropic.AuthenticationError) as caught:
            client.messages.create(**asked())
        assert caught.value.type == "authentication_error"

    def test_a_limit(self, secured: Instance):
        with client_of(secured, api_key=f"{KEY}-b") as client:
            client.messages.create(**asked())
            with pytest.raises(anthropic.RateLimitError) as caught:
                client.messages.create(**asked())
        assert caught.value.type == "rate_limit_error"

    def test_an_engine_that_dies(self, secured: Instance):
        with client_of(secured, api_key=KEY) as client:
            stream = client.messages.create(**asked("x" * 200, max_tokens=1000), stream=True)
            assert next(stream).type == "message_start"
            os.kill(secured.pid_of("engine"), signal.SIGKILL)
            events = list(stream)
        deltas = [event.delta for event in events if event.type == "content_block_delta"]
        assert "".join(delta.text for delta in deltas) == "x" * 200
        assert events[-1].type == "message_stop"

    def test_an_engine_that_dies_without_resume(self, run_dirs):
        off = {"supervision__resume_requests": False, "dry_run__step_ms": 20}
        with Instance(run_dirs, dry_run=True, **off) as instance, client_of(instance) as client:
            stream = client.messages.create(**asked("x" * 1000, max_tokens=1000), stream=True)
            assert next(stream).type == "message_start"
            os.kill(instance.pid_of("engine"), signal.SIGKILL)
            with pytest.raises(anthropic.APIStatusError) as caught:
                list(stream)
        assert caught.value.type == "overloaded_error"
