"""The same requests as vLLM takes, and the same made of them."""

import json
from typing import Any

import pytest

from vgate.frontend.apis.openai.chat.request import ChatRequest, decode_chat, generation_of
from vgate.frontend.apis.openai.completions.request import CompletionRequest
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline.constraints import calls_constraint
from vgate.frontend.text import ChatTemplate

pytestmark = [
    pytest.mark.vllm,
    # Importing vLLM takes a while on a busy machine, and is not silent.
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),
]

POINT = {"type": "object", "properties": {"x": {"type": "number"}}}
TOOLS = [
    {
        "function": {
            "parameters": {
                "type": "object",
                "properties": {"at": {"$ref": "#/$defs/point"}},
                "$defs": {"point": POINT},
            },
            "name": "draw",
        },
        "type": "function",
    },
    {"type": "function", "function": {"name": "clear", "description": "é", "strict": True}},
    {"type": "function", "function": {"name": "undo", "parameters": {}}},
]
CHOICES = ["required", *({"type": "function", "function": {"name": n}} for n in ("draw", "undo"))]


def both(**fields: Any) -> tuple[ChatRequest, Any]:
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest

    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], **fields}
    theirs = ChatCompletionRequest.model_validate(json.loads(json.dumps(body)))
    return decode_chat(json.dumps(body).encode(), Ignored()), theirs


def test_every_field_of_theirs_is_known():
    from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
    from vllm.entrypoints.openai.completion import protocol

    assert set(ChatCompletionRequest.model_fields) <= set(ChatRequest.__struct_fields__)
    theirs = set(protocol.CompletionRequest.model_fields)
    assert theirs <= set(CompletionRequest.__struct_fields__)


def test_every_field_of_openai_is_known():
    from openai.types import completion_create_params as completion
    from openai.types.chat import completion_create_params as chat

    for params, struct in (
        (chat.CompletionCreateParamsStreaming, ChatRequest),
        (completion.CompletionCreateParamsStreaming, CompletionRequest),
    ):
        assert set(params.__annotations__) <= set(struct.__struct_fields__)


def test_tools_are_described_alike():
    ours, theirs = both(tools=TOOLS)
    described = [tool.model_dump() for tool in theirs.tools]
    assert json.dumps(generation_of(ours).tools.tools) == json.dumps(described)


@pytest.mark.parametrize("parallel", [None, True, False])
@pytest.mark.parametrize("choice", CHOICES, ids=str)
def test_demanded_calls_have_the_same_schema(choice, parallel):
    from vllm.tool_parsers.utils import get_json_schema_from_tools

    ours, theirs = both(tools=TOOLS, tool_choice=choice, parallel_tool_calls=parallel)
    schema = get_json_schema_from_tools(
        theirs.tool_choice, theirs.tools, theirs.parallel_tool_calls
    )
    assert calls_constraint(generation_of(ours).tools).output.value == json.dumps(schema)


@pytest.mark.parametrize("content", ["I am", "I am ", "  x\n", "a {{ b }}"])
@pytest.mark.parametrize(
    "source",
    [
        "{% for m in messages %}<{{ m.role }}>{{ m.content }}</>{% endfor %}",
        "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</>\n{% endfor %}",
        "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}",
    ],
)
def test_a_message_is_continued_alike(source, content):
    from transformers.utils.chat_template_utils import render_jinja_template

    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": content}]
    [theirs], _ = render_jinja_template(
        [messages], chat_template=source, continue_final_message=True, eos_token="</s>"
    )
    template = ChatTemplate(source, {"eos_token": "</s>"})
    ours = template.render(messages, add_generation_prompt=False, continue_final_message=True)
    assert ours == theirs
