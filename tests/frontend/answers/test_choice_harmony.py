"""Choices in gpt-oss's format, from token ids: the same outcome at every cut."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frontend.conftest import load
from tests.tiny_model.harmony import make_harmony_model
from vgate.frontend.answers import ToolCall
from vgate.frontend.answers.choice import Choice
from vgate.frontend.answers.decode_options import DecodeOptions
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.parsing import HarmonyParser
from vgate.frontend.text import TextModel
from vgate.wire.logprobs import Logprobs

TOOLS = [{"name": "f", "parameters": {"type": "object"}}]
THINKS = "<|channel|>analysis<|message|>I think. é😀"
SAYS = "<|end|><|start|>assistant<|channel|>final<|message|>"
CALLS = "<|end|><|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>"
ANSWERS = [
    f"{THINKS}{SAYS}It is. 😀<|return|>",
    f"{THINKS}{CALLS}{{}}<|call|>",
    f"<|channel|>commentary<|message|>Let me.{CALLS}not json<|call|>",
    f"plain{SAYS}text<|return|>",
]


@pytest.fixture(scope="module")
def harmony(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    directory: Path = make_harmony_model(tmp_path_factory.mktemp("harmony"))
    return load(directory)


def read(
    text: TextModel, ids: list[int], sizes: Any = (), finish: Any = "stop", **reading: Any
) -> tuple[Choice, list[Any]]:
    """Return a choice that has read token ids, cut into steps, and its deltas."""
    options = DecodeOptions(
        texts=text.token_texts,
        harmony=partial(HarmonyParser, TOOLS),
        marks=text.marks,
        new_call_id=lambda: "id",
        keep_token_ids=True,
        **reading,
    )
    sequence: Any = Sequence(None, 0)
    choice, deltas = Choice(sequence, [], options, logprobs=True), []
    cuts = [*(size for size in sizes if size < len(ids)), len(ids)]
    for begin, end in zip([0, *cuts], cuts, strict=False):
        if choice.finish_reason is None:
            sequence.pending += ids[begin:end]
            sequence.logprobs += [Logprobs.of((token,), (-1.0,), 1) for token in ids[begin:end]]
            sequence.finish_reason = finish if end == len(ids) else None
            deltas.append(choice.take())
    return choice, [delta for delta in deltas if delta is not None]


@settings(deadline=None)
@given(data=st.data(), answer=st.sampled_from(ANSWERS), finish=st.sampled_from(["stop", "length"]))
def test_any_cuts_give_the_same(harmony, data, answer, finish):
    ids = harmony.tokenizer.encode(answer)
    if finish == "length":
        ids = ids[: data.draw(st.integers(1, len(ids) - 1))]
    whole, _ = read(harmony, ids, finish=finish)
    sizes = sorted(data.draw(st.sets(st.integers(1, len(ids)), max_size=9)))
    cut, deltas = read(harmony, ids, sizes, finish)
    assert cut.result() == whole.result()
    assert (cut.tokens, cut.reasoning_tokens) == (whole.tokens, whole.reasoning_tokens)
    assert whole.tokens == len(ids)
    assert "".join(delta.text for delta in deltas) == whole.result().text
    assert [place for delta in deltas for place in delta.logprobs] == whole.result().logprobs
    assert [token for delta in deltas for token in delta.token_ids] == ids


def test_what_is_counted_and_reported(harmony):
    encode = harmony.tokenizer.encode
    choice, _ = read(harmony, encode(ANSWERS[0]))
    result = choice.result()
    assert (result.reasoning, result.text) == ("I think. é😀", "It is. 😀")
    assert choice.reasoning_tokens == len(encode("I think. é😀"))
    assert [place.token_id for place in result.logprobs or ()] == encode("It is. 😀")


def test_a_call_s_end_is_no_cut(harmony):
    ids = harmony.tokenizer.encode(ANSWERS[2])
    result = read(harmony, ids, reported_stop_ids=frozenset({ids[-1]}))[0].result()
    assert result.tool_calls == [ToolCall("id", "f", "not json")]
    assert (result.finish_reason, result.stop_reason) == ("tool_calls", ids[-1])


def test_stop_strings_are_for_content_alone(harmony):
    stops = ("final", "think", "functions", "is")
    result = read(harmony, harmony.tokenizer.encode(ANSWERS[0]), stops=stops)[0].result()
    assert (result.reasoning, result.text, result.stop_reason) == ("I think. é😀", "It ", "is")
    assert result.finish_reason == "stop"
    result = read(harmony, harmony.tokenizer.encode(ANSWERS[1]), stops=("{", "is"))[0].result()
    assert result.tool_calls == [ToolCall("id", "f", "{}")]


def test_half_a_character_ends_with_its_message(harmony):
    encode = harmony.tokenizer.encode
    *first, last = encode("𪚥")
    assert first
    ids = [*encode(THINKS), *first, *encode(SAYS), last, *encode("a<|return|>")]
    result = read(harmony, ids)[0].result()
    assert result.reasoning.startswith("I think. é😀")
    assert result.text.endswith("a")
    assert "𪚥" not in result.text


def test_what_spells_a_special_token_is_text(harmony):
    encode = harmony.tokenizer.encode
    spelled = [token for letter in "<|end|>" for token in encode(letter)]
    result = read(harmony, [*encode("<|channel|>final<|message|>"), *spelled], (), "length")[
        0
    ].result()
    assert result.text == "<|end|>"
    shown = read(harmony, encode(ANSWERS[0]), skip_special_tokens=False, include_stop=True)[
        0
    ].result()
    assert shown.text == "It is. 😀"


def test_its_tokens_are_read_one_by_one_so_that_a_whole_answer_is_read_in_parts(harmony):
    plain: Any = Sequence(None, 0)
    Choice(plain, [], DecodeOptions(texts=harmony.token_texts))
    parsed: Any = Sequence(None, 0)
    options = DecodeOptions(
        texts=harmony.token_texts, harmony=partial(HarmonyParser, TOOLS), marks=harmony.marks
    )
    Choice(parsed, [], options)
    assert (plain.by_token, parsed.by_token) == (False, True)
