"""Texts that look like calls and are none, or break off, with their expected output."""

from tests.frontend.parsing.samples import NOW, Output

# The parser, the text, the expected output.
MALFORMED: list[tuple[str, str, Output]] = [
    (name, text, Output(text))
    for name, text in [
        ("hermes", '<tool_call>{"name": "get_wea'),
        ("hermes", '<tool_call>\n{"name": "get_weather", "arguments":'),
        ("hermes", '<tool_call>{"nom": "get_weather", "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": 5, "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "\\ud800", "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "", "arguments": {}}</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "arguments": }</tool_call>'),
        ("hermes", '<tool_call>{"name": "f", "other": {}}</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {"city": "Paris"}}</tool_call>'),
        ("hermes", '<tool_call>{"arguments": {]}, "name": "f"}</tool_call>'),
        ("hermes", "<tool_call>get_weather(city='Paris')</tool_call>"),
        ("hermes", "a <tool_call> \n <tool_call>"),
        ("hermes", " \n "),
        ("hermes", " \n <tool_ca"),
        ("qwen3_coder", '<tool_call>{"name": "get_weather", "arguments": {}}</tool_call>'),
        ("qwen3_coder", "<tool_call>\n<function=>\n</function>"),
        ("qwen3_coder", "<function=get weather>"),
        ("qwen3_coder", "<tool_call><function=get_wea"),
        ("llama3_json", '{"name": "Alice", "parameters": {"age": 3}}'),
        ("llama3_json", '{"answer": [1, 2, {"name": "get_time", "parameters": {}}]}'),
        ("llama3_json", 'Use {"name": "get_time", "parameters": {}} for it'),
        ("llama3_json", '<|python_tag|>brave_search.call(query="x")'),
        ("llama3_json", "a<|eot_id|>b"),
        ("mistral", "[TOOL_CALLS][]"),
        ("mistral", "[TOOL_CALLS]get_weather"),
        ("mistral", "[TOOL_CALLS][ARGS]{}"),
        ("mistral", "[TOOL_CALLS][1, 2]"),
        ("pythonic", "[1, 2, 3]"),
        ("pythonic", "[link](https://example.com)"),
        ("pythonic", "[unheard_of(a=1)]"),
        ("pythonic", "[get_weather('Paris')]"),
        ("pythonic", "[get_weather(city=open('x'))]"),
        ("pythonic", "[get_weather(city='a', city='b')]"),
        ("pythonic", "[get_weather(**{'city': 'a'})]"),
        ("pythonic", "[get_weather(city=b'a')]"),
        ("pythonic", "[get_weather(days=1e999)]"),
        ("pythonic", "[get_weather(city='Pa"),
        ("pythonic", "[get_weather(city=[1)]"),
        ("pythonic", "[get_weather(city=" + "[" * 5000 + "]" * 5000 + ")]"),
        ("deepseek_v3", "<｜tool▁calls▁begin｜>nothing<｜tool▁calls▁end｜>"),
        ("deepseek_v3", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n{}"),
        ("deepseek_v3", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n[]\n```"),
        ("required", '{"name": "get_time"}'),
        ("required", "no list"),
        ("required", "[]"),
    ]
] + [
    # Cut off in the arguments: the part that was read stays.
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": "b',
        Output(calls=(("f", '{"a": "b'),)),
    ),
    ("required", '[{"name": "f", "parameters": {"a', Output(calls=(("f", '{"a'),))),
    ("mistral", '[TOOL_CALLS]f{"a": 1', Output(calls=(("f", '{"a": 1'),))),
    (
        "qwen3_coder",
        "<function=get_weather><parameter=city>Pa\n",
        Output(calls=(("get_weather", '{"city": "Pa\\n'),)),
    ),
    (
        "qwen3_coder",
        "<function=get_weather><parameter=days>1",
        Output(calls=(("get_weather", '{"days": 1'),)),
    ),
    ("pythonic", "[get_time(), get_wea", Output(", get_wea", calls=(NOW,))),
    # Broken after the call began: the rest is content, and is searched for calls.
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {"a": [1}}</tool_call>',
        Output("}}</tool_call>", calls=(("f", '{"a": [1'),)),
    ),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {}, "city": "Paris"}</tool_call>',
        Output(', "city": "Paris"}</tool_call>', calls=(("f", "{}"),)),
    ),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {}</tool_call>',
        Output(calls=(("f", "{}"),)),
    ),
    (
        "hermes",
        '<tool_call>bad<tool_call>{"name": "f", "arguments": {}}',
        Output("<tool_call>bad", calls=(("f", "{}"),)),
    ),
    (
        "mistral",
        '[TOOL_CALLS][{"name": "f", "arguments": {}}, oh',
        Output(", oh", calls=(("f", "{}"),)),
    ),
    (
        "llama3_json",
        '{"name": "get_time", "parameters": {}}; {"name": "x"}',
        Output('; {"name": "x"}', calls=(NOW,)),
    ),
    (
        "qwen3_coder",
        "<function=get_time>oh <parameter=a\n></function>",
        Output("oh <parameter=a\n>", calls=(NOW,)),
    ),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {}, "x"</tool_call><tool_call>{"name": "g"}',
        Output(', "x"', calls=(("f", "{}"), ("g", "{}"))),
    ),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": {}, "x"<tool_call>{"name": "g"}',
        Output(', "x"', calls=(("f", "{}"), ("g", "{}"))),
    ),
    # Accepted: no arguments at all, and an object that was written as a string.
    ("hermes", '<tool_call>{"name": "get_time"}</tool_call>', Output(calls=(NOW,))),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>',
        Output(calls=(("f", '{"a": 1}'),)),
    ),
    (
        "hermes",
        '<tool_call>{"name": "f", "arguments": "a b"}</tool_call>',
        Output(calls=(("f", '"a b"'),)),
    ),
    ("hermes", '<tool_call>{"name": "f", "arguments": 5}', Output(calls=(("f", "5"),))),
]
