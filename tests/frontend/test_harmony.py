"""A model in gpt-oss's format, through all APIs: a worker, and the dry-run engine with a script."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model.harmony import make_harmony_model
from vgate.config.model import Model
from vgate.config.schema import DryRun

THINKS = "<|channel|>analysis<|message|>I think.<|end|>"
SAYS = "<|start|>assistant<|channel|>final<|message|>"
CALL = (
    "<|start|>assistant<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>"
)
ARGUMENTS = '{"city": "Paris"}'
SCRIPT = [
    {"last": "say", "text": f"{THINKS}{SAYS}It is fine.<|return|>never"},
    {
        "last": "weather",
        "text": (
            f"{THINKS}<|start|>assistant<|channel|>commentary<|message|>Let me look.<|end|>"
            f"{CALL}{ARGUMENTS}<|call|>never"
        ),
    },
    {"last": "garbage", "text": "<|channel|>what<|message|>A<|start|>B, C<|message|>D<|end|>E"},
    {"last": "format", "calls": [{"name": "get_weather", "arguments": {"city": "Oslo"}}]},
    {"prompt": "go on", "text": f" on.<|end|>{SAYS}And more."},
    {"last": "object", "text": '{"city": "Rome"}'},
]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"enum": [1, 2], "default": 1}},
    "required": ["city"],
    "additionalProperties": False,
}
FUNCTION = {"name": "get_weather", "parameters": PARAMETERS}
TOOLS = [
    {"type": "function", "function": FUNCTION},
    {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object"}}},
]


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory) -> Path:
    return make_harmony_model(tmp_path_factory.mktemp("harmony"))


@pytest.fixture
def ask(serve, model_dir, tmp_path):
    """Post bodies to a path of a worker with the model; return the exchanges."""
    script = tmp_path / "script.json"
    script.write_text(json.dumps(SCRIPT))

    def ask(path: str, *bodies: dict[str, Any], **settings: Any) -> list[Any]:
        answers = []

        async def scenario(gateway):
            for body in bodies:
                sent = json.dumps({"model": gateway.config.model.name, **body}).encode()
                answers.append(await gateway.request("POST", path, sent))

        directory = settings.pop("directory", model_dir)
        serve(
            scenario,
            model=Model(model_id=str(directory), **settings),
            dry_run=DryRun(step_ms=0, prefill_tokens_per_s=1e9, script=str(script)),
        )
        return answers

    return ask


def chat(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": f"please {text} it"}], **fields}


def streamed(answer: Any) -> tuple[str, str, list[list[str]], str]:
    """Return the content, the reasoning, the calls and the finish reason of a chat's stream."""
    content, reasoning, finish = "", "", ""
    calls: list[list[str]] = []
    assert answer.events[-1] == "[DONE]"
    for event in map(json.loads, answer.events[:-1]):
        for choice in event["choices"]:
            delta, finish = choice["delta"], choice["finish_reason"] or finish
            content += delta.get("content") or ""
            reasoning += delta.get("reasoning") or ""
            for call in delta.get("tool_calls") or ():
                function = call["function"]
                if name := function.get("name"):
                    calls.append([name, ""])
                calls[call["index"]][1] += function.get("arguments") or ""
    return content, reasoning, calls, finish


def test_as_many_stop_tokens_as_the_engine_s_messages_hold(ask):
    few, many = (list(range(3, 3 + count)) for count in (1022, 1023))
    taken, refused = ask(
        "/v1/chat/completions",
        chat("say", stop_token_ids=few),
        chat("say", stop_token_ids=many),
    )
    assert taken.status == 200
    assert (refused.status, refused.error["param"]) == (400, "stop_token_ids")
    assert "at most 1022 tokens" in refused.error["message"]


def test_reasoning_and_the_final_answer(ask):
    whole, stream = ask(
        "/v1/chat/completions", chat("say"), chat("say", stream=True, stop=["assistant", "think"])
    )
    (choice,) = whole.json["choices"]
    message = choice["message"]
    assert (message["content"], message["reasoning"]) == ("It is fine.", "I think.")
    assert message["reasoning_content"] == "I think."
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", None)
    # Stop strings are for content: not for headers or reasoning.
    assert streamed(stream) == ("It is fine.", "I think.", [], "stop")


def test_a_call(ask):
    answers = ask(
        "/v1/chat/completions",
        chat("weather", tools=TOOLS),
        chat("weather", tools=TOOLS, stream=True),
        chat("weather"),
    )
    (choice,) = answers[0].json["choices"]
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert (message["content"], message["reasoning"]) == ("Let me look.", "I think.")
    (call,) = message["tool_calls"]
    assert call["function"] == {"name": "get_weather", "arguments": ARGUMENTS}
    called = [["get_weather", ARGUMENTS]]
    assert streamed(answers[1]) == ("Let me look.", "I think.", called, "tool_calls")
    # Without tools there is nothing to call.
    (plain,) = answers[2].json["choices"]
    assert plain["message"]["content"] == f"Let me look.\n{ARGUMENTS}"
    assert plain["finish_reason"] == "stop"


def test_an_answer_that_is_cut_anywhere(ask):
    bodies = [
        chat("weather", tools=TOOLS, max_tokens=count, stream=stream)
        for count in range(1, 60)
        for stream in (False, True)
    ]
    answers = ask("/v1/chat/completions", *bodies)
    finishes = []
    for whole, stream in zip(answers[::2], answers[1::2], strict=True):
        (choice,) = whole.json["choices"]
        message = choice["message"]
        content, reasoning, calls, finish = streamed(stream)
        assert finish == choice["finish_reason"]
        assert (content, reasoning) == (message["content"] or "", message["reasoning"] or "")
        made = [call["function"] for call in message.get("tool_calls") or ()]
        assert calls == [[one["name"], one["arguments"]] for one in made]
        assert "Let me look.".startswith(content)
        assert "I think.".startswith(reasoning)
        assert all(ARGUMENTS.startswith(arguments) for _, arguments in calls)
        finishes.append(finish)
    assert finishes == sorted(finishes)
    assert {"length", "tool_calls"} == set(finishes)


def test_garbage_is_content(ask):
    (answer,) = ask("/v1/chat/completions", chat("garbage", tools=TOOLS))
    (choice,) = answer.json["choices"]
    assert choice["message"]["content"] == "A\nB, CD\nE"
    assert choice["message"].get("tool_calls") in (None, [])


@pytest.mark.parametrize("ends", [("<|return|>",), ("<|call|>",)])
def test_both_tokens_end_an_answer_whatever_the_model_s_files_say(ask, tmp_path, ends):
    directory = make_harmony_model(tmp_path / "model", ends)
    said, called = ask(
        "/v1/chat/completions", chat("say"), chat("weather", tools=TOOLS), directory=directory
    )
    assert said.json["choices"][0]["message"]["content"] == "It is fine."
    assert called.json["choices"][0]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
def test_a_call_that_is_demanded(ask, choice):
    finish = "tool_calls" if choice == "required" else "stop"
    for text, expected in [("format", {"city": "Oslo"}), ("nothing", {"city": ""})]:
        whole, stream = ask(
            "/v1/chat/completions",
            *(
                chat(text, tools=TOOLS, tool_choice=choice, stream=stream)
                for stream in (False, True)
            ),
        )
        (found,) = whole.json["choices"]
        (call,) = found["message"]["tool_calls"]
        assert call["function"]["name"] == "get_weather"
        assert json.loads(call["function"]["arguments"]) == expected
        assert found["finish_reason"] == finish
        _, _, ((name, arguments),), streamed_finish = streamed(stream)
        assert (name, json.loads(arguments), streamed_finish) == ("get_weather", expected, finish)


def test_a_schema_is_for_the_final_message(ask):
    schema = {"name": "city", "schema": PARAMETERS}
    (answer,) = ask(
        "/v1/chat/completions",
        chat("object", response_format={"type": "json_schema", "json_schema": schema}),
    )
    assert json.loads(answer.json["choices"][0]["message"]["content"]) == {"city": "Rome"}


def test_log_probabilities_are_those_of_the_content(ask):
    chat_answer, *_ = ask("/v1/chat/completions", chat("say", logprobs=True))
    (response,) = ask(
        "/v1/responses",
        {"input": "please say it", "include": ["message.output_text.logprobs"]},
    )
    tokens = chat_answer.json["choices"][0]["logprobs"]["content"]
    assert "".join(one["token"] for one in tokens) == "It is fine."
    tokens = response.json["output"][-1]["content"][0]["logprobs"]
    assert "".join(one["token"] for one in tokens) == "It is fine."


def test_the_responses_api(ask):
    tools = [{"type": "function", **FUNCTION}]
    said, called, stream = ask(
        "/v1/responses",
        {"input": "please say it"},
        {"input": "please weather it", "tools": tools},
        {"input": "please weather it", "tools": tools, "stream": True},
    )
    assert [item["type"] for item in said.json["output"]] == ["reasoning", "message"]
    assert said.json["output"][1]["content"][0]["text"] == "It is fine."
    details = said.json["usage"]["output_tokens_details"]
    assert 0 < details["reasoning_tokens"] < said.json["usage"]["output_tokens"] - 8
    kinds = ["reasoning", "message", "function_call"]
    assert [item["type"] for item in called.json["output"]] == kinds
    last = json.loads(stream.events[-1].partition("data: ")[2])
    assert [item["type"] for item in last["response"]["output"]] == kinds
    assert last["response"]["output"][2]["arguments"] == ARGUMENTS


def test_the_messages_api(ask):
    tools = [{"name": "get_weather", "input_schema": PARAMETERS}]
    body = {"max_tokens": 200, "messages": [{"role": "user", "content": "please weather it"}]}
    thinking = {"type": "disabled"}
    whole, stream = ask(
        "/v1/messages",
        {**body, "tools": tools, "thinking": thinking},
        {**body, "tools": tools, "stream": True},
    )
    assert [block["type"] for block in whole.json["content"]] == ["thinking", "text", "tool_use"]
    assert whole.json["content"][2]["input"] == {"city": "Paris"}
    assert whole.json["stop_reason"] == "tool_use"
    # It reasons whatever is asked for.
    assert whole.headers["x-vgate-ignored"] == "thinking"
    assert "".join(stream.events).count('"type":"content_block_start"') == len(
        whole.json["content"]
    )


def test_calls_that_are_demanded_without_a_parser_of_calls(ask):
    required = {"tools": TOOLS, "tool_choice": "required"}
    refused, called = ask(
        "/v1/chat/completions",
        chat("say", tools=TOOLS),
        chat("format", **required),
        tool_parser="none",
    )
    assert (refused.status, refused.error["param"]) == (400, "tools")
    (call,) = called.json["choices"][0]["message"]["tool_calls"]
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}


def test_an_answer_that_was_begun_goes_on(ask):
    (answer,) = ask(
        "/v1/chat/completions",
        {
            "messages": [
                {"role": "user", "content": "go on"},
                {"role": "assistant", "content": "I go"},
            ],
            "continue_final_message": True,
            "add_generation_prompt": False,
        },
    )
    message = answer.json["choices"][0]["message"]
    assert (message["content"], message["reasoning"]) == (" on.\nAnd more.", None)


@pytest.mark.parametrize(
    ("settings", "content", "reasoning"),
    [
        ({"tool_parser": "harmony"}, "It is fine.", "I think."),
        ({"tool_parser": "none"}, "It is fine.", "I think."),
        ({"reasoning_parser": "none"}, "I think.\nIt is fine.", None),
    ],
)
def test_what_the_operator_sets(ask, settings, content, reasoning):
    (answer,) = ask("/v1/chat/completions", chat("say"), **settings)
    message = answer.json["choices"][0]["message"]
    assert (message["content"], message["reasoning"]) == (content, reasoning)
