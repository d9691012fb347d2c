"""``text_offset``: where the tokens of a completion begin in its text."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.frontend.gateway import Gateway, post
from tests.frontend.text.bytes_tokenizer import BEGIN, BytesTokenizer
from tests.frontend.text.test_tokenizer_contract import sentencepiece
from tests.frontend.token_ids import token_ids
from tests.tiny_model.samples import TEXTS
from vgate.frontend.apis.openai.logprobs import TextOffsets
from vgate.frontend.text.decode import Detokenizer, TokenTexts

END = 257  # of the bytes tokenizer


def offsets_of(tokenizer, **options):
    return TextOffsets(TokenTexts(tokenizer), **{"skip_special_tokens": True, **options})


def before_each(tokenizer, ids):
    """Return how many whole characters precede each token."""
    before = (b"".join(map(tokenizer.bytes_of, ids[:end])) for end in range(len(ids)))
    return [len(text.decode(errors="ignore")) for text in before]


@settings(deadline=None)
@given(text=st.sampled_from(TEXTS) | st.text("aé😀 \n", max_size=20), prompt=st.integers(0, 20))
def test_a_character_belongs_to_its_last_token(model, text, prompt):
    tokenizer = model.tokenizer
    ids = tokenizer.encode(text)
    if "\ufffd" in tokenizer.decode(ids) or tokenizer.decode(ids) != text:
        return  # Normalised, or it has a replacement character.
    expected = before_each(tokenizer, ids)
    offsets = offsets_of(tokenizer)
    assert [offsets.of_next(token) for token in ids] == expected
    # An echo counts from the start of its prompt.
    while tokenizer.decode(ids[:prompt]).endswith("\ufffd"):
        prompt += 1
    offsets = offsets_of(tokenizer)
    places = offsets.of_prompt(ids[:prompt], tokenizer.decode(ids[:prompt]))
    assert places + [offsets.of_next(token) for token in ids[prompt:]] == expected


def test_a_special_token_counts_where_the_text_shows_it():
    tokenizer = BytesTokenizer()
    ids = [BEGIN, *b"ab"]
    # A text's own special tokens are in its echo, those that the tokenizer added are not.
    assert offsets_of(tokenizer).of_prompt(ids, "ab") == [0, 0, 1]
    assert offsets_of(tokenizer).of_prompt(ids, "<begin>ab") == [0, 7, 8]
    hidden, shown = offsets_of(tokenizer), offsets_of(tokenizer, skip_special_tokens=False)
    answer = [*b"a", END, *b"b"]
    assert [hidden.of_next(token) for token in answer] == [0, 1, 1]
    assert [shown.of_next(token) for token in answer] == [0, 1, 6]


def test_the_answer_begins_where_the_prompt_s_text_ends():
    tokenizer = sentencepiece()
    word = tokenizer.token_to_id("\u2581the")
    offsets = offsets_of(tokenizer)
    # SentencePiece puts a space before a text, which the echo hasn't.
    assert offsets.of_prompt([tokenizer.token_to_id("<s>"), word, word], "the the") == [0, 0, 3]
    assert [offsets.of_next(word) for _ in range(2)] == [7, 11]


@settings(deadline=None)
@given(data=st.data())
def test_bytes_that_are_no_character_count_as_in_the_text(tiny, data):
    offsets = offsets_of(tiny.tokenizer)
    ids = data.draw(token_ids(tiny)) + tiny.tokenizer.encode("\n")
    ids += tiny.tokenizer.encode("a")
    text = Detokenizer(tiny.token_texts, []).feed(ids)
    assert [offsets.of_next(token) for token in ids][-1] == len(text) - 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_echo_of_token_ids_shows_what_its_offsets_count(serve, stream):
    async def scenario(gateway: Gateway) -> None:
        model = gateway.config.model.served_names[0]
        special = (await post(gateway, "/tokenize", {"model": model, "prompt": "<|end|>"})).json
        prompt = [*special["tokens"], *"é!".encode()]
        body: dict[str, Any] = {"model": model, "prompt": prompt, "stream": stream}
        body |= {"echo": True, "logprobs": 0, "max_tokens": 2}
        answer = await post(gateway, "/v1/completions", body)
        choices = [answer.json["choices"][0]] if not stream else chunks_of(answer.events)
        text = "".join(choice["text"] for choice in choices)
        offsets = [at for choice in choices for at in choice["logprobs"]["text_offset"]]
        assert text.startswith("<|end|>é!")
        assert offsets[:5] == [0, 7, 7, 8, 9]

    serve(scenario)


def chunks_of(events: list[str]) -> list[Any]:
    return [json.loads(event)["choices"][0] for event in events[:-1]]


@pytest.mark.vllm
@pytest.mark.timeout(300)
@pytest.mark.filterwarnings("ignore")
def test_vllm_counts_alike(tiny, tiny_model_dir):
    from vllm.tokenizers import get_tokenizer
    from vllm.tokenizers.detokenizer_utils import convert_ids_list_to_tokens
    from vllm.v1.engine.logprobs import LogprobsProcessor

    theirs: Any = get_tokenizer(str(tiny_model_dir))
    processor = LogprobsProcessor(theirs, None, None, None, None, None)
    compared = 0
    for text in (f"é{text}" for text in TEXTS):
        ids = tiny.tokenizer.encode(text)
        names = []
        for place, token in enumerate(ids):
            spelled, before = convert_ids_list_to_tokens(theirs, [token]), ids[:place][-4:]
            names += processor._verify_tokens(spelled, [token], before)
        if "".join(names) != text:
            continue  # Normalised, or vLLM loses a character that ends in the middle of a token.
        offsets = offsets_of(tiny.tokenizer, skip_special_tokens=False)
        ours = [offsets.of_next(token) for token in ids]
        for place, at in enumerate(ours):
            # Within a character vLLM leaves a token's other characters to the last of its tokens.
            if not tiny.tokenizer.decode(ids[:place]).endswith("\ufffd"):
                assert at == len("".join(names[:place]))
                compared += 1
    assert compared > 100
