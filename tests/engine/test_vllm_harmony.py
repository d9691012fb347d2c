"""A constraint in gpt-oss's format begins after the header of what it is for, without a model."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.tiny_model.harmony import make_harmony_model
from vgate.engine.backends.vllm.constraints import Constraints
from vgate.engine.backends.vllm.exact_grammars import ExactGrammar, ExactGrammars
from vgate.engine.backends.vllm.harmony import HarmonyTokens, InHarmony
from vgate.engine.request import Request, RequestError
from vgate.wire.parameters import GenerateOptions, SamplingParams, StructuredOutput

pytestmark = pytest.mark.vllm

VOCABULARY = set(range(2048))
THINKS = "<|channel|>analysis<|message|>no<|end|><|start|>assistant"
FINAL = "<|channel|>final<|message|>"
CALLS = [
    "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>",
    " to=functions.{}<|channel|>commentary json<|message|>",
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    transformers = pytest.importorskip("transformers")
    directory: Path = make_harmony_model(tmp_path_factory.mktemp("model"))
    return transformers.AutoTokenizer.from_pretrained(str(directory))


@pytest.fixture(scope="module")
def grammars(tokenizer: Any) -> ExactGrammars:
    pytest.importorskip("llguidance")
    return ExactGrammars(tokenizer, 2048, compact=True)


class Case:
    """A constraint after a prompt, and what it allows."""

    def __init__(self, grammars: dict[str, Any], tokenizer: Any, prompt: str) -> None:
        self.encode = tokenizer.encode
        self.stops = [self.encode(text)[0] for text in ("<|return|>", "<|call|>")]
        made = {name: ExactGrammar(one, self.stops) for name, one in grammars.items()}
        tokens = HarmonyTokens(tokenizer)
        self.grammar = InHarmony(made, tokens, self.encode(prompt), self.stops)

    def accepts(self, text: str) -> bool:
        """Whether a text is complete."""
        tokens = self.encode(text)
        self.grammar.reset()
        if self.grammar.validate_tokens(tokens) != tokens:
            return False
        # A matcher that has refused a token is of no more use.
        assert self.grammar.accept_tokens("r", tokens)
        return self.grammar.is_terminated()

    def allowed(self) -> set[int]:
        torch = pytest.importorskip("torch")
        bitmask = torch.zeros((1, 64), dtype=torch.int32)
        self.grammar.fill_bitmask(bitmask, 0)
        words = bitmask[0].tolist()
        return {i for i in VOCABULARY if words[i // 32] >> (i % 32) & 1}


@pytest.fixture
def final(grammars: ExactGrammars, tokenizer: Any):
    def final(prompt: str = "<|start|>user<|message|>Hi<|end|><|start|>assistant") -> Case:
        matcher = grammars.compile(StructuredOutput("regex", "yes"))
        return Case({"": matcher}, tokenizer, prompt)

    return final


@pytest.fixture
def calls(grammars: ExactGrammars, tokenizer: Any) -> Case:
    schemas = {"get": '{"type": "integer"}', "get_time": '{"type": "boolean"}'}
    made = {
        name: grammars.compile(StructuredOutput("json", schema)) for name, schema in schemas.items()
    }
    return Case(made, tokenizer, "<|start|>assistant")


def test_the_final_message_follows_the_constraint(final):
    case = final()
    assert case.accepts(f"{FINAL}yes<|return|>")
    assert case.accepts(f"{THINKS}{FINAL}yes<|return|>")
    assert case.accepts(f"{THINKS}<|channel|>final <|constrain|>json<|message|>yes<|return|>")
    for wrong in (
        "yes<|return|>",
        f"{FINAL}no<|return|>",
        f"{THINKS}{FINAL}no<|return|>",
        f"{THINKS}yes<|return|>",
        f"{THINKS}{THINKS}{FINAL}yes<|return|>",
        "<|channel|>commentary<|message|>yes<|return|>",
        "<|channel|>analysis<|message|>yes<|return|>",
        f"{FINAL}yes",
    ):
        assert not case.accepts(wrong), wrong


@pytest.mark.parametrize("header", CALLS)
def test_a_call_follows_its_own_schema(calls, header):
    for before in ("", THINKS):
        assert calls.accepts(f"{before}{header.format('get')}12<|call|>")
        assert calls.accepts(f"{before}{header.format('get_time')}true<|call|>")
        assert not calls.accepts(f"{before}{header.format('get_time')}12<|call|>")
        assert not calls.accepts(f"{before}{header.format('get')}true<|call|>")
        assert not calls.accepts(f"{before}{header.format('other')}12<|call|>")
    assert not calls.accepts(f"{FINAL}12<|return|>")


@pytest.mark.parametrize(
    ("prompt", "before"),
    [
        ("<|start|>user<|message|>Hi<|end|>", "<|start|>assistant" + FINAL),
        ("<|start|>assistant" + FINAL, ""),
    ],
)
def test_it_begins_where_the_prompt_ends(final, prompt, before):
    case = final(prompt)
    assert case.accepts(f"{before}yes<|return|>")
    assert not case.accepts(f"{before}no<|return|>")


def test_reasoning_is_free_but_for_special_tokens(final):
    case = final()
    (channel,) = case.encode("<|channel|>")
    assert case.allowed() == {channel}
    assert case.grammar.accept_tokens("r", case.encode("<|channel|>analysis<|message|>no"))
    special = {case.encode(text)[0] for text in ("<|start|>", "<|message|>", "<|constrain|>")}
    special |= {channel, *case.stops, *case.encode("<|endoftext|>")}
    assert case.allowed() == VOCABULARY - special
    assert not case.grammar.is_terminated()
    assert not case.grammar.accept_tokens("r", case.stops[:1])


def test_tokens_are_taken_back_anywhere(final):
    case = final()
    tokens = case.encode(f"{THINKS}{FINAL}yes<|return|>")
    masks = []
    for token in tokens:
        masks.append(case.allowed())
        assert token in masks[-1]
        assert case.grammar.accept_tokens("r", [token])
    for back in range(1, len(tokens) + 1):
        case.grammar.rollback(back)
        assert case.allowed() == masks[-back]
        assert case.grammar.accept_tokens("r", tokens[-back:])
        assert case.grammar.is_terminated()


def constraint_of(constraints: Constraints, structured: StructuredOutput) -> None:
    options = GenerateOptions(structured=structured)
    constraints.compile(Request("k", [1], SamplingParams(), options=options))


def test_what_an_engine_can_t_hold_a_model_to_is_refused(tokenizer, grammars):
    answer = StructuredOutput("json_object", harmony={})
    with pytest.raises(RequestError, match="special tokens"):
        constraint_of(Constraints(grammars, None), answer)
    call = StructuredOutput("json", harmony={"f": "{}"})
    with pytest.raises(RequestError, match="grammars"):
        constraint_of(Constraints(None, None, HarmonyTokens(tokenizer)), call)


def test_other_grammars_are_vllm_s(tokenizer):
    constraints = Constraints(None, None, HarmonyTokens(tokenizer))
    constraint_of(constraints, StructuredOutput("choice", ["a"], harmony={}))
    asked: Any = SimpleNamespace(
        request_id="k", sampling_params=SimpleNamespace(all_stop_token_ids={5})
    )
    own: Any = SimpleNamespace(reset=lambda: None)
    assert isinstance(constraints.grammar(asked, lambda _request: own), InHarmony)
