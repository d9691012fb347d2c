"""Whether a prompt has closed the reasoning; runs without vLLM."""

import pytest

from vgate.engine.backends.vllm.reasoning import ReasoningMarks

OPEN, CLOSE, BORDER = 1, 2, 3
WORD = 9


class Tokenizer:
    all_special_ids = (BORDER, CLOSE)  # a model may call its marks special

    def convert_tokens_to_ids(self, token: str) -> int:
        return {"<think>": OPEN, "</think>": CLOSE}[token]


@pytest.mark.parametrize(
    ("prompt", "ended"),
    [
        ([BORDER, WORD, OPEN, WORD, CLOSE, WORD], True),
        ([BORDER, WORD, OPEN, WORD, CLOSE], True),
        ([BORDER, WORD, CLOSE], True),
        ([BORDER, WORD, OPEN], False),
        ([BORDER, OPEN, CLOSE, OPEN, WORD], False),
        ([BORDER, WORD], False),
        ([BORDER, OPEN, CLOSE, WORD, BORDER, WORD], False),
        ([WORD], False),
        ([], False),
    ],
)
def test_the_last_turn_decides_whether_reasoning_has_ended(prompt: list[int], ended: bool) -> None:
    assert ReasoningMarks(Tokenizer()).ended(prompt) is ended
