"""Grammars of llguidance, and the place of reasoning before them, without a model."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_model import make_tiny_model
from vgate.engine.backends.vllm.exact_grammars import ExactGrammar, ExactGrammars
from vgate.engine.backends.vllm.reasoning import AfterReasoning, ReasoningMarks
from vgate.engine.request import RequestError
from vgate.wire.parameters import StructuredOutput

pytestmark = pytest.mark.vllm

OTHER_STOP = 300


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    transformers = pytest.importorskip("transformers")
    directory: Path = make_tiny_model(
        tmp_path_factory.mktemp("model"), weights=False, thinking=True
    )
    return transformers.AutoTokenizer.from_pretrained(str(directory))


@pytest.fixture(scope="module")
def grammars(tokenizer: Any) -> ExactGrammars:
    pytest.importorskip("llguidance")
    return ExactGrammars(tokenizer, 2048, compact=True)


class Case:
    """A grammar, and what it allows.

    Args:
        grammar: A StructuredOutputGrammar.
        tokenizer: Of its tokens.
    """

    def __init__(self, grammar: Any, tokenizer: Any) -> None:
        self.grammar = grammar
        self.encode = tokenizer.encode
        self.stop: int = tokenizer.eos_token_id

    def accepts(self, text: str) -> bool:
        """Whether a text is complete."""
        tokens = [*self.encode(text), self.stop]
        valid = self.grammar.validate_tokens(tokens)
        return bool(valid == tokens)

    def allowed(self) -> set[int]:
        torch = pytest.importorskip("torch")
        bitmask = torch.zeros((2, 64), dtype=torch.int32)
        self.grammar.fill_bitmask(bitmask, 1)
        assert not bitmask[0].any()
        words = bitmask[1].tolist()
        return {token for token in range(2048) if words[token >> 5] >> (token & 31) & 1}


@pytest.fixture
def make(grammars: ExactGrammars, tokenizer: Any) -> Callable[..., Case]:
    def make(value: Any, kind: Any = "json") -> Case:
        text = json.dumps(value) if kind == "json" else value
        matcher = grammars.compile(StructuredOutput(kind, text))
        return Case(ExactGrammar(matcher, [tokenizer.eos_token_id, OTHER_STOP]), tokenizer)

    return make


Make = Callable[..., Case]
TEXT = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "values", "others"),
    [
        ({**TEXT, "maxLength": 2}, ["", '"', "\\", "\n\x01", "éß", "😀a"], ["abc"]),
        ({**TEXT, "minLength": 2}, ["ab", '"\n'], ["a", ""]),
        ({**TEXT, "pattern": '^"[^"]$'}, ['"a', '"\\'], ['""', "a"]),
        ({**TEXT, "pattern": '^[^"\\\\]{2}$'}, ["ab", "\n\t"], ['a"', "a\\"]),
        ({**TEXT, "pattern": r"^[\x00-\x1f]$"}, ["\n", "\x01"], ['"', "\\", "\x00"]),
        ({**TEXT, "pattern": r"^\d\w\s$"}, ["1_ ", "9a\t"], ["٣a ", "1é ", "1a\xa0"]),
        ({**TEXT, "pattern": r"^\D\W\S$"}, ["a-b"], ["٣-b", "aéb", "a-\x1c"]),
        ({**TEXT, "pattern": r"^[^\D][^\W][^\S]$"}, ["1a "], ["٣a ", "1é ", "1a\x85"]),
        ({**TEXT, "pattern": "^.$"}, ["a", '"', "\t"], ["\n", "\r", "\u2028", ""]),
        ({**TEXT, "pattern": "a"}, ["a", "bab", "\na"], ["b", ""]),
        ({**TEXT, "pattern": "^a|b$"}, ["ax", "xb"], ["xa", "bx"]),
        ({**TEXT, "pattern": "^[ab]+$", "maxLength": 3}, ["ab", "bbb"], ["aaaa", "c"]),
        ({**TEXT, "format": "date"}, ["2024-02-29"], ["2023-02-29", "0000-01-01", "x"]),
        ({**TEXT, "format": "ipv6"}, ["::", "1::2", "::1:2:3:4:5:6:7"], ["1:2", "1::2::3"]),
        ({"type": "number", "exclusiveMaximum": 99}, [98.5, 0, -5], [99, 99.5]),
        ({"type": "number", "exclusiveMinimum": 0}, [0.1, 7], [0, -0.1]),
        ({"enum": ['"', 1, None]}, ['"', 1, None], ["1", 2]),
        ({"$ref": "#/$defs/a", "$defs": {"a": TEXT}, "maxLength": 1}, ["a"], ["ab", 1]),
        ({"allOf": [TEXT, {"minLength": 2}]}, ["ab"], ["a"]),
        ({"type": "object", "maxProperties": 1}, [{}, {"a": 1}], [{"a": 1, "b": 2}]),
    ],
)
def test_a_schema_is_followed(make: Make, schema: Any, values: list[Any], others: list[Any]):
    case = make(schema)
    for value in values:
        assert case.accepts(json.dumps(value, ensure_ascii=False, separators=(",", ":"))), value
    for value in others:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        assert not case.accepts(text), value


@pytest.mark.parametrize("text", ['"\x01"', '"\t"', '"\n"', '"""', '"\\"', '"\\ud800"'])
@pytest.mark.parametrize("limits", [{}, {"maxLength": 9}, {"minLength": 1}, {"pattern": "."}])
def test_a_string_has_nothing_unescaped(make: Make, text: str, limits: dict[str, Any]):
    assert not make({**TEXT, **limits}).accepts(text)


def test_a_property_can_not_come_again_in_other_letters(make: Make):
    schema = {"type": "object", "properties": {"a": {"type": "null"}}, "required": ["a"]}
    assert not make(schema).accepts('{"a":null,"b":1}')
    for others in ({"additionalProperties": True}, {"additionalProperties": {"type": "integer"}}):
        case = make({**schema, **others})
        for again in (r"\u0061", "a"):
            assert not case.accepts(f'{{"a":null,"{again}":1}}')
        for new in ("b", "", "ab", "\\n", '\\"', "é"):
            assert case.accepts(f'{{"a":null,"{new}":1}}'), new
        assert case.accepts('{"a":null,"b":null}') is (others["additionalProperties"] is True)


def test_other_properties_are_those_without_a_name(make: Make):
    names = ["a", "ab", "abc", "b", "é", 'q"t', "\n", "xyz"]
    schema = {
        "type": "object",
        "properties": {name: {"type": "null"} for name in names},
        "additionalProperties": {"type": "integer"},
    }
    case = make(schema)
    for name in [*names, "", "ac", "abcd", "x", "xy", "xyzz", "É", "q", "\t", "ca"]:
        expected = "null" if name in names else "1"
        for value in ("null", "1"):
            text = f"{{{json.dumps(name, ensure_ascii=False)}:{value}}}"
            assert case.accepts(text) is (value == expected), text


def test_regular_expressions_are_of_the_whole_text(make: Make):
    case = make('^a|"b"$', "regex")
    assert case.accepts("a")
    assert case.accepts('"b"')
    assert not case.accepts("ab")


@pytest.mark.parametrize(
    ("value", "kind", "code", "reason"),
    [
        ({"pattern": "(?=a)"}, "json", "unsupported_parameter", "a schema's `pattern` with look-"),
        ("(?=a)", "regex", "unsupported_parameter", "a regular expression with look-ahead"),
        ("(a", "regex", "invalid_value", "parenthesis"),
        ({"enum": []}, "json", "invalid_value", "nothing satisfies it"),
        ({"type": "string", "pattern": "^a$", "minLength": 2}, "json", "invalid_value", "nothing"),
    ],
)
def test_what_cannot_be_compiled_is_named(
    make: Make, value: Any, kind: str, code: str, reason: str
):
    with pytest.raises(RequestError, match=reason) as caught:
        make(value, kind)
    assert (caught.value.code, caught.value.subject) == (code, "constraint")


def test_stop_tokens_are_allowed_at_the_end_and_nowhere_else(make: Make):
    case = make("(?:ab)+", "regex")
    first, *rest = case.encode("ab")
    assert not case.allowed() & {case.stop, OTHER_STOP}
    assert case.grammar.accept_tokens("r", [first, *rest])
    assert case.allowed() >= {case.stop, OTHER_STOP, first}
    assert case.grammar.accept_tokens("r", [OTHER_STOP])
    assert case.grammar.is_terminated()
    case.grammar.rollback(1)
    assert not case.grammar.is_terminated()
    assert case.allowed() >= {case.stop, first}
    case.grammar.rollback(len([first, *rest]))
    assert not case.allowed() & {case.stop, OTHER_STOP}
    case.grammar.accept_tokens("r", [first, *rest, case.stop])
    case.grammar.reset()
    assert not case.grammar.is_terminated()
    assert not case.grammar.accept_tokens("r", case.encode("x"))


@pytest.fixture
def after_reasoning(make: Make, tokenizer: Any) -> Callable[..., Case]:
    def after_reasoning(*, begun: bool) -> Case:
        case = make("yes", "regex")
        marks = ReasoningMarks(tokenizer)
        case.grammar = AfterReasoning(case.grammar, marks, [case.stop], begun=begun)
        return case

    return after_reasoning


def test_a_model_that_does_not_reason_is_constrained(after_reasoning: Callable[..., Case]):
    case = after_reasoning(begun=False)
    begin, end = case.encode("<think></think>")
    allowed = case.allowed()
    assert begin in allowed
    assert not allowed & {end, case.stop, *case.encode("no")}
    assert case.accepts("yes")
    assert case.accepts("<think>no</think>yes")
    assert not case.accepts("<think>no</think>no")
    assert not case.accepts("</think>yes")
    assert not case.accepts("<think>yes")


@pytest.mark.parametrize("begun", [False, True])
def test_reasoning_is_free_but_can_not_end_the_answer(
    after_reasoning: Callable[..., Case], *, begun: bool
):
    case = after_reasoning(begun=begun)
    begin, end = case.encode("<think></think>")
    opening = [] if begun else [begin]
    assert case.grammar.accept_tokens("r", [*opening, *case.encode("no")])
    assert case.allowed() == set(range(2048)) - {case.stop}
    assert not case.grammar.is_terminated()
    assert case.grammar.validate_tokens([7, case.stop]) == [7]
    answer = [end, *case.encode("yes"), case.stop]
    for _ in range(2):
        assert case.grammar.accept_tokens("r", answer)
        assert case.grammar.is_terminated()
        case.grammar.rollback(len(answer))
        assert case.allowed() == set(range(2048)) - {case.stop}
    case.grammar.accept_tokens("r", answer[:2])
    case.grammar.rollback(1)
    assert not case.allowed() & {end, begin, case.stop}
    case.grammar.reset()
    assert case.stop not in case.allowed()
    assert (7 in case.allowed()) is begun


def test_reasoning_also_ends_where_its_mark_is_spelled(after_reasoning: Callable[..., Case]):
    case = after_reasoning(begun=True)
    spelled = [token for letter in "no </think>" for token in case.encode(letter)]
    assert len(spelled) == len("no </think>")
    for cut in range(len(spelled)):
        assert case.grammar.accept_tokens("r", spelled[:cut])
        rest = [*spelled[cut:], *case.encode("yes"), case.stop]
        assert case.grammar.validate_tokens(rest) == rest
        assert case.grammar.validate_tokens([*spelled[cut:], 7]) == spelled[cut:]
        case.grammar.rollback(cut)


def test_a_token_that_ends_nothing_is_refused(after_reasoning: Callable[..., Case]):
    case = after_reasoning(begun=True)
    assert not case.grammar.accept_tokens("r", [7, case.stop])
