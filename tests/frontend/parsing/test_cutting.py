"""A parser's output depends only on the text, not on how it is cut, and nothing is lost."""

import itertools
import re

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.frontend.parsing.harmony_samples import HARMONY_MALFORMED, HARMONY_SAMPLES
from tests.frontend.parsing.malformed import MALFORMED
from tests.frontend.parsing.samples import PARSERS, gather, parse
from tests.frontend.parsing.samples import SAMPLES as OTHER_SAMPLES
from vgate.frontend.parsing import TOOL_PARSERS
from vgate.frontend.parsing.families.harmony import MARKS

SAMPLES = OTHER_SAMPLES + HARMONY_SAMPLES
KNOWN = SAMPLES + MALFORMED + HARMONY_MALFORMED
# Samples to combine and to damage, without the longest, which would only be slow.
SHORT = [(name, text) for name, text, _ in KNOWN if len(text) < 1000]
# Characters of markers, JSON and Python, so that edits hit the syntax.
ALPHABET = st.sampled_from([*"<>/{}[]()\"'\\:,;=|｜` \nnta_1é😀", *MARKS.values()])
SENTINEL = re.compile(r"[A-ZÉ]+\d")
# Parsers drop these: they mark reasoning and the end of a turn, and are not part of the output.
ENDS_OF_TURN = [end for parser in TOOL_PARSERS.values() for end in parser.ends_of_turn]
TAGS = re.compile("|".join(map(re.escape, ["<think>", "</think>", *ENDS_OF_TURN, *MARKS.values()])))


def cut(text, positions):
    edges = [0, *sorted(positions), len(text)]
    return [text[begin:end] for begin, end in itertools.pairwise(edges)]


def without_end_of_turn(name, text):
    for end in TOOL_PARSERS[name].ends_of_turn:
        if text.endswith(end):
            return text.removesuffix(end)
    return text


def positions_in(text):
    return st.sets(st.integers(0, len(text)), max_size=12)


@pytest.mark.parametrize(("name", "text", "output"), KNOWN)
def test_output_of_a_text(name, text, output):
    assert parse(PARSERS[name](), text) == output


@pytest.mark.parametrize(("name", "text", "output"), KNOWN)
def test_output_is_the_same_char_by_char(name, text, output):
    assert gather(PARSERS[name](), text) == output


@pytest.mark.parametrize(("name", "text"), SHORT)
def test_output_is_the_same_for_every_single_cut(name, text):
    output = parse(PARSERS[name](), text)
    for position in range(len(text) + 1):
        assert gather(PARSERS[name](), cut(text, {position})) == output


@pytest.mark.parametrize(("name", "text"), SHORT)
def test_output_of_truncated_text_is_the_same_char_by_char(name, text):
    for size in range(len(text)):
        assert gather(PARSERS[name](), text[:size]) == parse(PARSERS[name](), text[:size])


@settings(deadline=None)
@given(data=st.data(), sample=st.sampled_from(SHORT))
def test_output_is_the_same_for_any_cuts(data, sample):
    name, text = sample
    pieces = cut(text, data.draw(positions_in(text)))
    assert gather(PARSERS[name](), pieces) == parse(PARSERS[name](), text)


@settings(deadline=None, max_examples=300)
@given(data=st.data(), name=st.sampled_from(sorted(PARSERS)))
def test_output_of_any_text_is_the_same_for_any_cuts(data, name):
    """Text from pieces of this parser's samples and random characters, in any order."""
    texts = [text for other, text in SHORT if other == name]
    marked = [
        piece for text in texts for piece in re.split(r"(<[^>]*>|[\[{}\]();,\ud800-\ud806])", text)
    ]
    parts = st.lists(st.sampled_from(marked or ["x"]) | st.text(ALPHABET, max_size=3), max_size=25)
    text = "".join(data.draw(parts))
    pieces = cut(text, data.draw(positions_in(text)))
    output = gather(PARSERS[name](), pieces)
    assert output == parse(PARSERS[name](), text)
    assert gather(PARSERS[name](), text) == output


@st.composite
def damaged_samples(draw):
    """A well-formed output with a few characters changed, none of them in a sentinel."""
    # A parser of the first call alone drops what damage puts into the arguments of another.
    kept_calls = [sample for sample in SAMPLES if not sample[0].endswith("_first")]
    name, text, _ = draw(st.sampled_from(kept_calls))
    for _ in range(draw(st.integers(1, 3))):
        kept = {at for word in SENTINEL.finditer(text) for at in range(word.start(), word.end())}
        at = draw(st.integers(0, len(text)))
        inserted = draw(ALPHABET | st.just(""))
        deletes = at not in kept and draw(st.booleans())
        if at in kept and at - 1 in kept:
            continue
        text = text[:at] + inserted + text[at + deletes :]
    return name, text


@settings(deadline=None, max_examples=500)
@given(sample=damaged_samples(), data=st.data())
def test_damaged_text_is_never_lost(sample, data):
    """Every remaining sentinel is in the output; without a call all text is content."""
    name, text = sample
    output = parse(PARSERS[name](), text)
    for word in SENTINEL.findall(text):
        assert word in output.everything
    # Harmony's headers are no content; its other text is, as far as it isn't reasoning.
    if name in TOOL_PARSERS and name != "harmony" and not output.calls:
        assert output.content == without_end_of_turn(name, text)
    pieces = cut(text, data.draw(positions_in(text)))
    assert gather(PARSERS[name](), pieces) == output


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs"]) | ALPHABET))
@example("{" * 3000)
@example("[" * 3000)
@example("<tool_call>" * 300)
@example("<think>")
@example("</think>")
@example("<|eot_id|>")
def test_arbitrary_text_never_raises(text):
    """Any text has output, unless it is only whitespace and tags."""
    for make in PARSERS.values():
        output = parse(make(), text)
        assert output.calls or output.reasoning or output.content or not TAGS.sub("", text).strip()
