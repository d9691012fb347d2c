"""Text is emitted as soon as it is certain, and the cost is linear in its length."""

import json
import sys

import pytest

from tests.frontend.parsing.samples import PARSERS, TOOLS, gather
from vgate.frontend.parsing import TOOL_PARSERS
from vgate.frontend.parsing.base import NOTHING
from vgate.frontend.parsing.families.harmony import marked

WORDS = "The quick brown fox, 5 < 6 [and] {more}; jumps over the lazy dog\n" * 3


@pytest.mark.parametrize("name", [*TOOL_PARSERS, "auto", "outside"])
def test_content_is_never_held_back(name):
    parser = PARSERS[name]()
    output = ""
    for size, character in enumerate(WORDS, 1):
        output += parser.feed(character).content
        # Only a character that starts a marker, or whitespace on its own, is held back.
        assert output == WORDS[:size] or character in "<["


def test_reasoning_is_never_held_back():
    parser = PARSERS["inside"]()
    for character in WORDS:
        assert parser.feed(character).reasoning or character == "<"


# The text before the arguments, and the text after them.
AROUND_ARGUMENTS = [
    ("hermes", '<tool_call>{"name": "f", "arguments": ', "}</tool_call>"),
    ("llama3_json", '{"name": "get_weather", "parameters": ', "}"),
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": ', "}]"),
    ("mistral", "[TOOL_CALLS]f[ARGS]", ""),
    ("deepseek_v3", "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n", "\n```"),
    ("deepseek_v3", "<｜tool▁call▁begin｜>f<｜tool▁sep｜>", "<｜tool▁call▁end｜>"),
    (
        "harmony",
        marked("<|channel|>commentary to=functions.f <|constrain|>json<|message|>"),
        marked("<|call|>"),
    ),
    ("required", '[{"name": "f", "parameters": ', "}]"),
    ("named", "", ""),
]


@pytest.mark.parametrize(("name", "before", "after"), AROUND_ARGUMENTS)
def test_every_character_of_json_arguments_is_emitted_immediately(name, before, after):
    arguments = json.dumps({"a": ['\\ " } ]', {"b": 1.5, "c": None}], "d": "é" * 9}, indent=1)
    parser = PARSERS[name]()
    parser.feed(before)
    for character in arguments:
        (delta,) = parser.feed(character).tool_calls
        assert delta.arguments == character
    assert parser.feed(after) == NOTHING
    assert parser.finish() == NOTHING


def test_a_text_parameter_streams_except_its_last_newline():
    parser = PARSERS["qwen3_coder"]()
    parser.feed("<function=get_weather><parameter=city>\n")
    for character in 'Paris "é" {}':
        (delta,) = parser.feed(character).tool_calls
        assert json.loads(f'"{delta.arguments.removeprefix(chr(34))}"') == character
    assert parser.feed("\n") == NOTHING
    assert parser.feed("x").tool_calls[0].arguments == "\\nx"
    assert parser.feed("</parameter>").tool_calls[0].arguments == '"'


def test_a_parameter_of_another_type_is_emitted_when_complete():
    parser = PARSERS["qwen3_coder"]()
    parser.feed("<function=get_weather><parameter=days>")
    assert parser.feed("12") == NOTHING
    assert parser.feed("</parameter>").tool_calls[0].arguments == "12"


def test_a_python_call_is_emitted_when_complete():
    parser = PARSERS["pythonic"]()
    assert parser.feed("[get_weather(city='Paris'") == NOTHING
    assert parser.feed(")").tool_calls[0].arguments == '{"city": "Paris"}'


def long_texts(size):
    """Texts of about `size` characters that take quadratic time if read repeatedly."""
    call = '{"name": "get_time", "arguments": {}}'
    return {
        "content": ("hermes", "a <b " * (size // 5)),
        "spaces": ("hermes", " " * size),
        "spaces in a call": ("hermes", '<tool_call>{"name":' + " " * size),
        "reasoning": ("inside", "a <" * (size // 3)),
        "string argument": ("hermes", '<tool_call>{"name":"f","arguments":"' + "a\\" * (size // 2)),
        "name last": ("hermes", '<tool_call>{"arguments":{"a":"' + "b" * size + '"},"name":"f"}'),
        "never ending name": ("hermes", '<tool_call>{"name":"' + "a" * size),
        "nesting": ("hermes", '<tool_call>{"name":"f","arguments":' + "[" * size),
        "calls": ("hermes", f"<tool_call>{call}</tool_call>\n" * (size // 60)),
        "broken calls": ("hermes", '<tool_call>{"name"' * (size // 18)),
        "list": ("required", "[" + ", ".join([call] * (size // 40))),
        "text parameter": ("qwen3_coder", "<function=f><parameter=a>" + "\n<" * (size // 2)),
        "number": ("qwen3_coder", "<function=get_weather><parameter=days>" + "1" * size),
        "parameters": (
            "qwen3_coder",
            "<function=f>" + "<parameter=a>b</parameter>\n" * (size // 27),
        ),
        "python string": ("pythonic", "[get_weather(city='" + "a" * size + "')]"),
        "python calls": ("pythonic", "[" + "get_time(), " * (size // 12)),
        "ends of turn": ("llama3_json", "<|eot_id|>" * (size // 10)),
        "names": ("mistral", "[TOOL_CALLS]" + "a" * size),
        "messages": ("harmony", marked("<|channel|>final<|message|>a<|end|>") * (size // 9)),
        "headers": ("harmony", marked("<|channel|>") * size),
        "spaces in a header": ("harmony", marked("<|channel|>final") + " " * size),
        "a header's words": ("harmony", marked("<|channel|>") + "final to=" * (size // 9)),
        "arguments": ("harmony", marked("<|channel|>a to=f<|message|>") + "{}" * (size // 2)),
    }


def work(name, text):
    """Count the function calls and the characters read again when text is fed char by char."""
    parser = PARSERS[name]()
    count = 0

    def counting(frame, event, argument):
        nonlocal count
        count += event in {"call", "c_call"}

    again = 0
    sys.setprofile(counting)
    try:
        for character in text:
            parser.feed(character)
            again += len(parser._reader.unread)
        parser.finish()
    finally:
        sys.setprofile(None)
    return count + again


@pytest.mark.parametrize("case", long_texts(100))
def test_work_is_linear_in_the_length_of_the_text(case):
    name, short = long_texts(3000)[case]
    _, long = long_texts(12_000)[case]
    assert work(name, long) < 1.2 * work(name, short) * len(long) / len(short)


@pytest.mark.parametrize("case", long_texts(100))
def test_output_of_long_texts_is_the_same_for_any_cuts(case):
    name, text = long_texts(100_000)[case]
    by_char = gather(PARSERS[name](), text[:20_000])
    assert by_char == gather(PARSERS[name](), [text[:20_000]])
    gather(PARSERS[name](), [text[at : at + 7] for at in range(0, len(text), 7)])


def test_first_call_only_leaves_out_further_calls():
    for name, text in (
        ("mistral", "[TOOL_CALLS]f{}[TOOL_CALLS]g{}"),
        ("pythonic", "[get_time(), get_weather()]"),
        ("qwen3_coder", "<function=f></function><function=g><parameter=a>b</parameter></function>"),
    ):
        parser = TOOL_PARSERS[name](TOOLS, first_call_only=True)
        output = gather(parser, text)
        assert len(output.calls) == 1
        assert output.content == ""
        assert parser.called
