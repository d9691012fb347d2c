"""Which of an answer's log probabilities belong to its text."""

from vgate.frontend.apis.openai.logprobs import LogprobTexts
from vgate.frontend.apis.openai.responses.response import TextLogprobs
from vgate.frontend.text import TextModel
from vgate.wire.logprobs import Logprobs


def fed(tiny: TextModel, *texts: str) -> tuple[TextLogprobs, list[int]]:
    """Return the log probabilities of some texts' tokens, and how many tokens each has."""
    found = TextLogprobs(LogprobTexts(tiny.token_texts, top=0))
    encoded = [tiny.tokenizer.encode(text) for text in texts]
    for tokens in encoded:
        found.feed([Logprobs.of((token,), (-1.0,), 1) for token in tokens])
    return found, [len(tokens) for tokens in encoded]


def test_tokens_of_several_bytes(tiny):
    text = "Good morning, 世界! The weather is fine."
    found, (thought, said, _) = fed(tiny, "Hm, hm.", text, "<tool_call>")
    assert 1 < said < len(text.encode())
    taken = found.take(text, thought)
    assert len(taken) == said
    assert b"".join(bytes(token.bytes) for token in taken) == text.encode()


def test_a_text_that_comes_in_pieces(tiny):
    text = "Good morning, 世界!"
    found, (said, after) = fed(tiny, text, "<tool_call>")
    taken = [token for char in text for token in found.take(char, 0)]
    assert len(taken) == said
    assert len(found.rest(0)) == after


def test_what_has_not_come_yet(tiny):
    found, _ = fed(tiny, "Good")
    found.take("Good morning", 0)
    assert found.rest(0) == []
    assert found.take("", 0) == []
