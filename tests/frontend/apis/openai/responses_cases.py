"""Requests of the Responses API: each field served, taken without effect, or refused."""

from typing import Any

from vgate.frontend.pipeline import Constraint, ToolUse
from vgate.wire.parameters import StructuredOutput

Fields = dict[str, Any]

USER = {"role": "user", "content": "Hi"}
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
WEATHER = {"type": "function", "name": "weather", "parameters": SCHEMA}
TIME = {"type": "function", "name": "time", "description": "Tells it.", "strict": True}
LOGPROBS = "message.output_text.logprobs"
# More than 64 bits.
HUGE = f'{{"a": {2**70}}}'


def same(**fields: Any) -> tuple[Fields, Fields]:
    """Fields that a generation has with the same names."""
    return fields, fields


def part(**fields: Any) -> Fields:
    """A part of a user's message."""
    return {"input": [{"role": "user", "content": [fields]}]}


def item(kind: str, **fields: Any) -> Fields:
    return {"input": [{"type": kind, **fields}]}


def call(**fields: Any) -> Fields:
    return item("function_call", **{"call_id": "c", "name": "f", "arguments": "{}", **fields})


def tool(**fields: Any) -> Fields:
    return {"tools": [{**WEATHER, **fields}]}


def choice(kind: str, **fields: Any) -> Fields:
    return {"tools": [WEATHER], "tool_choice": {"type": kind, **fields}}


def allowed(*tools: Fields, mode: str = "auto") -> Fields:
    return choice("allowed_tools", mode=mode, tools=list(tools))


def text_format(kind: str, **fields: Any) -> Fields:
    return {"text": {"format": {"type": kind, **fields}}}


SHOWN = {"name": "weather", "description": None, "parameters": SCHEMA}
SHOWN_WEATHER = {"type": "function", "function": SHOWN}

# The request's fields, and those of the generation, its prompt and its sampling parameters.
SERVED: list[tuple[Fields, Fields]] = [
    same(temperature=0.5, top_p=0.9),
    ({"truncation": "auto"}, {"drop_oldest": True}),
    ({"reasoning_effort": "low"}, {"reasoning_effort": "low"}),
    same(presence_penalty=1.0, frequency_penalty=-1.0, repetition_penalty=1.1),
    same(seed=7, top_k=3, min_p=0.1),
    same(min_tokens=2, stop_token_ids=[5], ignore_eos=True),
    same(allowed_token_ids=[5]),
    ({"stop": "x"}, {"stops": ("x",)}),
    (
        {"stop": ["x", "y"], "include_stop_str_in_output": True},
        {"stops": ("x", "y"), "include_stop": True},
    ),
    same(bad_words=["x"], cache_salt="s", priority=1),
    (
        {"skip_special_tokens": False, "spaces_between_special_tokens": False},
        {"skip_special_tokens": False},
    ),
    (
        {"include_reasoning": False, "chat_template_kwargs": {"enable_thinking": False}},
        {"show_reasoning": False, "template_kwargs": {"enable_thinking": False}},
    ),
    (
        {"parallel_tool_calls": False, "tools": [WEATHER]},
        {"tools": ToolUse("auto", [SHOWN_WEATHER], None, parallel=False)},
    ),
    ({"parallel_tool_calls": False}, {}),
    ({"tool_choice": "none", "tools": [WEATHER]}, {}),
    ({"tool_choice": "none"}, {}),
    (
        {"structured_outputs": {"regex": "a+"}},
        {"constraint": Constraint(StructuredOutput("regex", "a+"), "structured_outputs.regex")},
    ),
    ({"logit_bias": {"5": 1}}, {"logit_bias": {5: 1.0}}),
    ({"max_output_tokens": 5}, {"max_tokens": 5}),
    ({"max_tokens": 5}, {"max_tokens": 5}),
    ({"max_completion_tokens": 5}, {"max_tokens": 5}),
    ({"stream": True, "stream_options": {}}, {}),
    ({"stream": True, "stream_options": {"include_obfuscation": True}}, {}),
    ({"reasoning": {"effort": "low"}}, {"reasoning_effort": "low"}),
    ({"reasoning": {"summary": "auto", "context": "auto", "mode": "standard"}}, {}),
    ({"include": [LOGPROBS]}, {"logprobs": 0}),
    ({"include": [LOGPROBS], "top_logprobs": 3}, {"logprobs": 3}),
    (text_format("text"), {}),
    ({"text": {"verbosity": "medium"}}, {}),
    ({"truncation": "disabled", "background": False, "enable_response_messages": False}, {}),
    ({"mm_payload": "tensors", "return_mm_kwargs": True, "vllm_xargs": {}}, {}),
]
WITHOUT_EFFECT: Fields = {
    "store": True,
    "previous_response_id": "resp_1",
    "metadata": {"a": "b"},
    "user": "u",
    "safety_identifier": "s",
    "service_tier": "flex",
    "prompt_cache_key": "k",
    "prompt_cache_retention": "24h",
    "prompt_cache_options": {"mode": "implicit"},
    "session_id": "s",
    "max_tool_calls": 3,
    "include": [
        "reasoning.encrypted_content",
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "message.input_image.image_url",
        "computer_call_output.output.image_url",
        "code_interpreter_call.outputs",
    ],
    "instructions": "",
    "tools": [],
}
# The fields, and the path that the error names.
REFUSED: list[tuple[Fields, str]] = [
    ({"background": True}, "background"),
    ({"conversation": "conv_1"}, "conversation"),
    ({"prompt": {"id": "p"}}, "prompt"),
    ({"image": {}}, "image"),
    ({"previous_input_messages": []}, "previous_input_messages"),
    (item("item_reference", id="msg_1"), "input[0].type"),
    ({"input": [USER, {"id": "msg_1"}]}, "input[1].type"),
    (part(type="input_image", image_url="x"), "input[0].content[0].type"),
    (part(type="input_file", file_id="x"), "input[0].content[0].type"),
    (part(type="input_audio"), "input[0].content[0].type"),
    (part(type="refusal", refusal="x"), "input[0].content[0].type"),
    (
        item("function_call_output", call_id="c", output=[{"type": "input_image"}]),
        "input[0].output[0].type",
    ),
]
# What a request is served without, and how the header names it.
TOLD: list[tuple[Fields, str]] = [
    ({"background_options": {"completion_window": "2h"}}, "background_options"),
    ({"context_management": []}, "context_management"),
    ({"access_programs": {}}, "access_programs"),
    ({"moderation": {"model": "x"}}, "moderation"),
    ({"enable_response_messages": True}, "enable_response_messages"),
    ({"logprobs": True}, "logprobs"),
    ({"top_logprobs": 3}, "top_logprobs"),
    ({"n": 2}, "n"),
    ({"messages": [USER]}, "messages"),
    ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs.messages"),
    (
        {"structured_outputs": {"json": {}, "whitespace_pattern": " "}},
        "structured_outputs.whitespace_pattern",
    ),
    ({"watermarking": True}, "watermarking"),
    ({"vllm_xargs": {"a": 1}}, "vllm_xargs"),
    ({"kv_transfer_params": {"a": 1}}, "kv_transfer_params"),
    ({"ec_transfer_params": {"a": 1}}, "ec_transfer_params"),
    ({"mm_processor_kwargs": {"a": 1}}, "mm_processor_kwargs"),
    ({"media_io_kwargs": {"a": {}}}, "media_io_kwargs"),
    ({"mm_payload": "none"}, "mm_payload"),
    ({"return_mm_kwargs": "x"}, "return_mm_kwargs"),
    ({"request_id": "r"}, "request_id"),
    ({"reasoning": {"summary": "detailed"}}, "reasoning.summary"),
    ({"reasoning": {"generate_summary": "concise"}}, "reasoning.generate_summary"),
    ({"reasoning": {"context": "all_turns"}}, "reasoning.context"),
    ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
    ({"text": {"verbosity": "low"}}, "text.verbosity"),
    ({"tools": [{"type": "web_search", "external_web_access": False}]}, "tools[].type=web_search"),
    (tool(defer_loading=True), "tools[].defer_loading"),
    (tool(**{"async": True}), "tools[].async"),
    (tool(output_schema={}), "tools[].output_schema"),
    (tool(allowed_callers=["programmatic"]), "tools[].allowed_callers"),
    (choice("mcp", server_label="x"), "tool_choice.type=mcp"),
    ({"input": [USER, {"type": "web_search_call", "id": "x"}]}, "input[].type=web_search_call"),
    (call(caller={"type": "program"}), "input[].caller"),
    (
        {"input": [USER, {"type": "reasoning", "summary": [], "encrypted_content": "x"}]},
        "input[].encrypted_content",
    ),
    ({"include": ["odd"]}, "include=odd"),
    ({"client_metadata": {"a": "b"}}, "client_metadata"),
    ({"tools": [WEATHER, {"type": "local_shell"}]}, "tools[].type=local_shell"),
]
INVALID: list[tuple[Fields, str]] = [
    ({"model": 1}, "model"),
    ({"input": []}, "input"),
    ({"input": 1}, "input"),
    ({"input": ["Hi"]}, "input[0]"),
    ({"input": [{}]}, "input[0].type"),
    ({"input": [{"role": "tool", "content": "x"}]}, "input[0].role"),
    ({"input": [{"role": "user"}]}, "input[0].content"),
    ({"input": [{**USER, "status": "odd"}]}, "input[0].status"),
    (part(type="input_text"), "input[0].content[0].text"),
    (part(type="input_text", text=1), "input[0].content[0].text"),
    (item("function_call", call_id="c", arguments="{}"), "input[0].name"),
    (call(name=""), "input[0].name"),
    (call(call_id=""), "input[0].call_id"),
    (call(arguments=HUGE), "input[0].arguments"),
    ({"input": [USER, USER, *call(arguments=HUGE)["input"]]}, "input[2].arguments"),
    ({"instructions": "Be.", **call(arguments=HUGE)}, "input[0].arguments"),
    (call(arguments={}), "input[0].arguments"),
    (item("function_call_output", output="x"), "input[0].call_id"),
    (item("function_call_output", call_id="", output="x"), "input[0].call_id"),
    (item("reasoning", content=[{"type": "odd", "text": "x"}]), "input[0].content[0].type"),
    (item("reasoning", summary=[]), "input"),
    ({"instructions": 1}, "instructions"),
    ({"max_output_tokens": 0}, "max_output_tokens"),
    ({"max_output_tokens": 1, "min_tokens": 2}, "min_tokens"),
    ({"stop": [""]}, "stop[0]"),
    ({"priority": "x"}, "priority"),
    ({"stream_options": {"include_obfuscation": True}}, "stream_options"),
    ({"top_logprobs": -2, "include": [LOGPROBS]}, "top_logprobs"),
    ({"truncation": "odd"}, "truncation"),
    ({"metadata": {"a": 1}}, "metadata[...]"),
    (text_format("odd"), "text.format.type"),
    (text_format("json_schema", schema={}), "text.format.name"),
    (text_format("json_schema", name="", schema={}), "text.format.name"),
    (text_format("json_schema", name="n"), "text.format.schema"),
    (text_format("json_schema", name="n", schema={"a": 2**70}), "text.format.schema"),
    ({**text_format("json_object"), "structured_outputs": {"regex": "a"}}, "structured_outputs"),
    ({"tools": [{"type": "function"}]}, "tools[0].name"),
    (tool(name="x" * 257), "tools[0].name"),
    ({"response_format": {"type": "odd"}}, "response_format.type"),
    (tool(parameters={"a": 2**70}), "tools[0].parameters"),
    ({"tool_choice": "odd"}, "tool_choice"),
    ({"tool_choice": "required"}, "tool_choice"),
    (choice("function"), "tool_choice.name"),
    (choice("function", name="time"), "tool_choice.name"),
    (allowed(mode="odd"), "tool_choice.mode"),
    (allowed(), "tool_choice.tools"),
    (allowed({"type": "function", "name": "time"}), "tool_choice.tools"),
]
UNKNOWN: list[tuple[Fields, str]] = [
    ({"odd": 1}, "odd"),
    ({"reasoning": {"odd": 1}}, "reasoning.odd"),
    ({"text": {"odd": 1}}, "text.odd"),
    (text_format("text", odd=1), "text.format.odd"),
    ({"stream_options": {"include_usage": True}}, "stream_options.include_usage"),
    (tool(function={}), "tools[0].function"),
    (allowed(WEATHER), "tool_choice.tools[0].parameters"),
    ({"input": [USER, {**USER, "odd": 1}]}, "input[1].odd"),
    (part(type="input_text", text="x", odd=1), "input[0].content[0].odd"),
    ({"structured_outputs": {"odd": 1}}, "structured_outputs.odd"),
]
