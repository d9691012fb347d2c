"""Sample texts of every format with their expected output, and helpers to feed them in pieces."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from vgate.frontend.parsing import TOOL_PARSERS
from vgate.frontend.parsing.base import OutputParser, Parsed
from vgate.frontend.parsing.families.harmony import HarmonyParser, opening_of
from vgate.frontend.parsing.forced import NamedCall, RequiredCalls
from vgate.frontend.parsing.reasoning import ReasoningParser

WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {
            "city": {"type": "string"},
            "days": {"type": "integer"},
            "hourly": {"type": "boolean"},
            "place": {"type": "object"},
            "unit": {"type": ["string", "null"]},
        },
    },
}
CLOCK = {"name": "get_time", "parameters": {"type": "object", "properties": {}}}
TOOLS = [WEATHER, CLOCK]


class Chain:
    """A reasoning parser, then a tool parser for its content, as `Choice` combines them."""

    __slots__ = ("_reasoning", "_tools")

    def __init__(self, reasoning: ReasoningParser | None, tools: OutputParser | None) -> None:
        self._reasoning = reasoning
        self._tools = tools

    @property
    def called(self) -> bool:
        """Whether a tool was called."""
        return bool(getattr(self._tools, "called", False))

    @property
    def in_reasoning(self) -> bool:
        """Whether the next text is reasoning, in which stop strings are ignored."""
        return self._reasoning is not None and self._reasoning.in_reasoning

    def feed(self, text: str) -> Parsed:
        """Take more text; return what is certain now."""
        parsed = self._reasoning.feed(text) if self._reasoning else Parsed(text)
        return self._with_tools(parsed)

    def finish(self) -> Parsed:
        """Return the output that was held back. The text has ended."""
        parsed = self._reasoning.finish() if self._reasoning else Parsed()
        parsed = self._with_tools(parsed)
        if self._tools is None:
            return parsed
        rest = self._tools.finish()
        return Parsed(
            parsed.content + rest.content, parsed.reasoning, parsed.tool_calls + rest.tool_calls
        )

    def _with_tools(self, parsed: Parsed) -> Parsed:
        if self._tools is None or not parsed.content:
            return parsed
        rest = self._tools.feed(parsed.content)
        return Parsed(rest.content, parsed.reasoning, rest.tool_calls)


class Output(NamedTuple):
    """A parser's output for a text: content, reasoning, and (name, arguments) of each call."""

    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str], ...] = ()

    @property
    def everything(self) -> str:
        return "\0".join([self.content, self.reasoning, *map("\0".join, self.calls)])


def gather(parser: OutputParser, pieces: Iterable[str]) -> Output:
    """Feed pieces, check the order and the names of calls, and return the joined output."""
    content, reasoning = "", ""
    calls: list[list[str]] = []
    for parsed in [*map(parser.feed, pieces), parser.finish()]:
        content += parsed.content
        reasoning += parsed.reasoning
        for delta in parsed.tool_calls:
            if delta.index == len(calls):
                assert delta.name
                calls.append([delta.name, delta.arguments])
            else:
                assert delta.index == len(calls) - 1
                assert delta.name is None
                assert delta.arguments
                calls[-1][1] += delta.arguments
    return Output(content, reasoning, tuple((name, arguments) for name, arguments in calls))


def parse(parser: OutputParser, text: str) -> Output:
    return gather(parser, [text])


def tool_parser(name: str) -> Callable[[], OutputParser]:
    return lambda: TOOL_PARSERS[name](TOOLS)


def thinking(name: str, start: str = "auto") -> Callable[[], OutputParser]:
    return lambda: Chain(ReasoningParser(start), TOOL_PARSERS[name](TOOLS))


PARSERS: dict[str, Callable[[], OutputParser]] = {
    **{name: tool_parser(name) for name in TOOL_PARSERS},
    "inside": lambda: ReasoningParser("inside"),
    "outside": lambda: ReasoningParser("outside"),
    "auto": lambda: ReasoningParser("auto"),
    "implicit": lambda: ReasoningParser("inside", implicit_ends=("<tool_call>",)),
    "named": lambda: NamedCall("get_weather"),
    "required": lambda: RequiredCalls(TOOLS),
    "harmony_first": lambda: HarmonyParser(TOOLS, first_call_only=True),
    "harmony_inside": lambda: HarmonyParser(
        TOOLS, opening=opening_of("<|start|>assistant<|channel|>analysis<|message|>So")
    ),
    "harmony_after": lambda: HarmonyParser(TOOLS, opening=None),
    "harmony_plain": lambda: HarmonyParser([], reasons=False),
    "hermes_first": lambda: TOOL_PARSERS["hermes"](TOOLS, first_call_only=True),
    "thinking_hermes": thinking("hermes"),
    "thinking_coder": thinking("qwen3_coder", "inside"),
    "thinking_required": lambda: Chain(ReasoningParser("inside"), RequiredCalls(TOOLS)),
}

DEEPSEEK_BEGIN = "<｜tool▁calls▁begin｜>"
DEEPSEEK_CALL = (
    "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n"
    "```json\n{arguments}\n```<｜tool▁call▁end｜>"
)
DEEPSEEK_END = "<｜tool▁calls▁end｜>"
DEEPSEEK_V31_CALL = "<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>"


def deepseek(template: str, *calls: tuple[str, str], between: str = "") -> str:
    texts = [
        template.replace("{name}", name).replace("{arguments}", arguments)
        for name, arguments in calls
    ]
    return DEEPSEEK_BEGIN + between.join(texts) + DEEPSEEK_END


PARIS = ("get_weather", '{"city": "Paris", "days": 3}')
OSLO = (
    "get_weather",
    '{"city": "Oslo </tool_call> [TOOL_CALLS]", "place": {"a": [1, {"b": "}\\""}]}}',
)
NOW = ("get_time", "{}")

# Well-formed texts. Words in capitals with a digit must never be lost.
SAMPLES: list[tuple[str, str, Output]] = [
    (
        "hermes",
        '<tool_call>\n{"name": "get_weather", "arguments": ' + PARIS[1] + "}\n</tool_call>",
        Output(calls=(PARIS,)),
    ),
    (
        "hermes",
        'SAY1 it.\n\n<tool_call>{"arguments": ' + OSLO[1] + ', "name": "get_weather"}</tool_call>\n'
        '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>\n',
        Output("SAY1 it.\n\n", calls=(OSLO, NOW)),
    ),
    (
        "hermes",
        (
            '\n\n<tool_call>{"id": "x", "name": "get_weather", "arguments": '
            '{"city": "ÉVRY2 😀\\n"}}</tool_call>\nAnd SAY2 <more>'
        ),
        Output("\nAnd SAY2 <more>", calls=(("get_weather", '{"city": "ÉVRY2 😀\\n"}'),)),
    ),
    (
        "hermes_first",
        (
            '<tool_call>{"name": "get_time", "arguments": {}}</tool_call>'
            '<tool_call>{"name": "get_weather", "arguments": {}}</tool_call>SAY1'
        ),
        Output("SAY1", calls=(NOW,)),
    ),
    (
        "qwen3_coder",
        (
            'SAY1\n<tool_call>\n<function=get_weather>\n<parameter=city>\nPARIS2\n"x"\n</parameter>\n'
            "<parameter=days>\n3\n</parameter>\n<parameter=hourly>true</parameter>\n"
            '<parameter=place>{"a": ["b<"]}</parameter>\n<parameter=unit>null</parameter>\n'
            "</function>\n</tool_call>\n<tool_call>\n<function=get_time>\n</function>\n</tool_call>\n"
        ),
        Output(
            "SAY1\n",
            calls=(
                (
                    "get_weather",
                    (
                        '{"city": "PARIS2\\n\\"x\\"", "days": 3, "hourly": true, '
                        '"place": {"a": ["b<"]}, "unit": null}'
                    ),
                ),
                NOW,
            ),
        ),
    ),
    (
        "qwen3_coder",
        (
            "<function=get_weather><parameter=city>\n\nOSLO1\n\n<parameter=other>5</parameter></function>"
            "<function=get_time></tool_call> SAY1"
        ),
        Output(" SAY1", calls=(("get_weather", '{"city": "\\nOSLO1\\n", "other": "5"}'), NOW)),
    ),
    (
        "llama3_json",
        (
            '{"name": "get_weather", "parameters": {"city": "PARIS1"}}; {"type": "function", '
            '"name": "get_time", "parameters": {}}<|eot_id|>'
        ),
        Output(calls=(("get_weather", '{"city": "PARIS1"}'), NOW)),
    ),
    (
        "llama3_json",
        'SAY1 <|python_tag|>{"name": "unheard_of", "arguments": {"q": "OSLO2"}}<|eom_id|>',
        Output("SAY1 ", calls=(("unheard_of", '{"q": "OSLO2"}'),)),
    ),
    (
        "mistral",
        (
            '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "PARIS1"}, "id": "abc"}, '
            '{"name": "get_time", "arguments": {}}]</s>'
        ),
        Output(calls=(("get_weather", '{"city": "PARIS1"}'), NOW)),
    ),
    (
        "mistral",
        'SAY1[TOOL_CALLS]get_weather{"city": "OSLO2"}[TOOL_CALLS]get_time[CALL_ID]a1B[ARGS]{}</s>',
        Output("SAY1", calls=(("get_weather", '{"city": "OSLO2"}'), NOW)),
    ),
    (
        "pythonic",
        "[get_weather(city='PARIS1\"', days=-3, place={'a': [1.5, None, true]}), get_time()]\n",
        Output(
            calls=(
                (
                    "get_weather",
                    '{"city": "PARIS1\\"", "days": -3, "place": {"a": [1.5, null, true]}}',
                ),
                NOW,
            )
        ),
    ),
    (
        "pythonic",
        ' [ get_weather( city = "a) [b\\"\\n OSLO1" ) , ] SAY1',
        Output(" SAY1", calls=(("get_weather", '{"city": "a) [b\\"\\n OSLO1"}'),)),
    ),
    (
        "deepseek_v3",
        "SAY1"
        + deepseek(DEEPSEEK_CALL, ("get_weather", '{"city": "PARIS2"}'), NOW, between="\n")
        + "<｜end▁of▁sentence｜>",
        Output("SAY1", calls=(("get_weather", '{"city": "PARIS2"}'), NOW)),
    ),
    (
        "deepseek_v3",
        deepseek(DEEPSEEK_V31_CALL, ("get_weather", '{"city": "OSLO1"}'), NOW) + "\nSAY1",
        Output("\nSAY1", calls=(("get_weather", '{"city": "OSLO1"}'), NOW)),
    ),
    ("inside", "\nTHINK1\n</think>\n\nSAY1 </think>", Output("\n\nSAY1 </think>", "\nTHINK1\n")),
    ("inside", "\n<think>\nTHINK1 <b> </thin", Output("", "\nTHINK1 <b> </thin")),
    ("outside", "<think>SAY1</think>", Output("<think>SAY1</think>")),
    ("auto", " \n<think>THINK1</think>SAY1", Output("SAY1", "THINK1")),
    ("auto", " \n<thin>SAY1</think>SAY2", Output(" \n<thin>SAY1</think>SAY2")),
    ("implicit", "THINK1<tool_call>SAY1", Output("<tool_call>SAY1", "THINK1")),
    ("named", '{"city": "PARIS1"}\n', Output(calls=(("get_weather", '{"city": "PARIS1"}\n'),))),
    ("named", "", Output()),
    (
        "required",
        (
            '[{"name": "get_weather", "parameters": {"city": "PARIS1"}} , {"parameters": {}, '
            '"name": "get_time"}]\n'
        ),
        Output(calls=(("get_weather", '{"city": "PARIS1"}'), NOW)),
    ),
    (
        "thinking_hermes",
        (
            "<think>\nTHINK1 <tool_call>\n</think>\n\n<tool_call>\n"
            '{"name": "get_time", "arguments": {}}\n</tool_call>'
        ),
        Output("", "\nTHINK1 <tool_call>\n", (NOW,)),
    ),
    (
        "thinking_coder",
        "THINK1</think>SAY1<tool_call><function=get_time></function></tool_call>",
        Output("SAY1", "THINK1", (NOW,)),
    ),
    (
        "thinking_required",
        'THINK1</think>\n[{"name": "get_time", "parameters": {}}]',
        Output("", "THINK1", (NOW,)),
    ),
]
