"""Pairs of texts are put together and cut as the tokenizers library does it."""

from types import SimpleNamespace

import pytest
import tokenizers
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from vgate.frontend.text import kept_of_pair
from vgate.frontend.text.pairs import first_tokens, pair_template

WORDS = {word: n for n, word in enumerate(["[UNK]", "<s>", "</s>", "[CLS]", "[SEP]", *"abcdefgh"])}


def library(post_processor=None) -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.WordLevel(WORDS, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    if post_processor is not None:
        made.post_processor = post_processor
    return made


BERT = processors.TemplateProcessing(
    single="[CLS] $A [SEP]",
    pair="[CLS] $A [SEP] $B:1 [SEP]:1",
    special_tokens=[("[CLS]", 3), ("[SEP]", 4)],
)
# The second separator is of the second text.
EARLY = processors.TemplateProcessing(
    single="$A", pair="$A [SEP] [SEP]:1 $B:1", special_tokens=[("[SEP]", 4)]
)
KINDS = {
    "bert": library(BERT),
    "roberta": library(processors.RobertaProcessing(("</s>", 2), ("<s>", 1))),
    "early": library(EARLY),
    "plain": library(),
}


@pytest.mark.parametrize("kind", KINDS)
@given(st.text("abcdefgh", max_size=9), st.text("abcdefgh", max_size=9), st.integers(1, 12))
@example("abc", "abc", 5)
@example("", "abcdefgh", 3)
def test_a_pair_has_the_librarys_tokens_and_types(kind, one, other, room):
    made = KINDS[kind]
    template = pair_template(made)
    first, second = (made.encode(" ".join(text), add_special_tokens=False) for text in (one, other))
    lengths = kept_of_pair(len(first.ids), len(second.ids), room)
    ids = [
        *template.before,
        *first.ids[: lengths[0]],
        *template.between,
        *second.ids[: lengths[1]],
        *template.after,
    ]
    whole = tokenizers.Tokenizer.from_str(made.to_str())
    whole.enable_truncation(room + template.added, strategy="longest_first")
    wanted = whole.encode(" ".join(one), " ".join(other))
    assert ids == wanted.ids
    if template.second_from is None:
        assert 1 not in wanted.type_ids
    elif 1 in wanted.type_ids:
        begins = len(template.before) + lengths[0] + template.second_from
        assert begins == wanted.type_ids.index(1)


@pytest.mark.parametrize("size", [1, 5, 40])
def test_the_first_tokens_of_a_text_are_cut_as_text(tiny, size):
    made = tiny.tokenizer.library
    for text in (
        "import the module, then call it",
        "東京 🚂" * 30,
        "naïve café",
        "a" * 100_000,
        "",
    ):
        cut = first_tokens(made, text, size)
        assert text.startswith(cut)
        assert len(made.encode(cut).ids) <= size
        if len(made.encode(text).ids) > size:
            # With what comes next it would have more.
            longer = text[: len(cut) + 40]
            assert len(made.encode(longer).ids) > size or len(longer) == len(text)
        else:
            assert cut == text


def test_other_threads_can_run_while_a_text_is_cut(tiny):
    # The library's `encode` keeps the interpreter until it returns.
    only = SimpleNamespace(encode_batch=tiny.tokenizer.library.encode_batch)
    text = "the module, then " * 1000
    assert first_tokens(only, text, 100) == first_tokens(tiny.tokenizer.library, text, 100)


def test_the_first_tokens_come_after_a_long_space():
    # Of a part without tokens as few special ones are no sign that there are enough.
    around = processors.TemplateProcessing(
        single="<s> $A [CLS] </s>", special_tokens=[("<s>", 1), ("[CLS]", 3), ("</s>", 2)]
    )
    assert first_tokens(library(around), " " * 5000 + "a b", 1).strip() == "a"
