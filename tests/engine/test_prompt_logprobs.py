"""The log probabilities of a long prompt are computed a piece at a time."""

from types import SimpleNamespace

import msgspec
import pytest

from vgate.engine.backends.checks import check
from vgate.engine.backends.prompt_logprobs import (
    bound_prompt_logprobs,
    check_prompt_logprobs,
    longest_prompt,
)
from vgate.engine.request import Request, RequestError
from vgate.wire.messages import ModelInfo
from vgate.wire.parameters import DEFAULTS, GenerateOptions

MIB = 2**20


class Runner:
    """As vLLM's: its bookkeeping of prompts, and the numbers of the tokens whose logits it made."""

    def __init__(self, **prompts: int) -> None:
        self.num_prompt_logprobs = dict.fromkeys(prompts, 1)
        self.requests = {
            key: SimpleNamespace(num_computed_tokens=0, prompt=length)
            for key, length in prompts.items()
        }
        self.offsets: dict[str, int] = {}
        self.calls: list[int] = []
        self.found: dict[str, list[int]] = {key: [] for key in prompts}

    def _get_prompt_logprobs_dict(self, hidden_states, num_scheduled_tokens):
        complete = {}
        for key in list(self.num_prompt_logprobs):
            if (tokens := num_scheduled_tokens.get(key)) is None:
                continue
            request = self.requests[key]
            left = request.prompt - request.num_computed_tokens - 1
            count = min(tokens, left)
            if tokens > left:
                complete[key] = self.found[key]
                del self.num_prompt_logprobs[key]
            if count > 0:
                offset = self.offsets.get(key, 0)
                self.found[key] += hidden_states[offset : offset + count]
                self.calls.append(count)
        return complete


def bounded(vocab_size: int, **prompts: int) -> Runner:
    runner = Runner(**prompts)
    bound_prompt_logprobs(SimpleNamespace(model_runner=runner), vocab_size)
    return runner


@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 32, 33, 100])
def test_pieces_make_the_whole(length):
    """As many as 16 tokens are a piece."""
    runner = bounded(MIB, a=length)
    complete = runner._get_prompt_logprobs_dict([*range(length)], {"a": length})
    assert complete == {"a": [*range(length - 1)]}
    assert max(runner.calls, default=0) <= 16
    assert not runner.num_prompt_logprobs


def test_a_prompt_that_is_read_in_parts_goes_on_where_it_was():
    runner = bounded(MIB, a=50, b=40)
    states = [*range(50), *range(100, 140)]
    # The second one stands behind the first one in a step.
    runner.offsets["b"] = 30
    step = [*states[:30], *states[50:70]]
    assert runner._get_prompt_logprobs_dict(step, {"a": 30, "b": 20, "other": 1}) == {}
    for key, done in (("a", 30), ("b", 20)):
        assert runner.requests[key].num_computed_tokens == 0
        runner.requests[key].num_computed_tokens = done
    runner.offsets["b"] = 20
    complete = runner._get_prompt_logprobs_dict([*states[30:50], *states[70:]], {"a": 20, "b": 20})
    assert complete == {"a": [*range(49)], "b": [*range(100, 139)]}
    assert max(runner.calls) <= 16


def test_a_piece_is_as_long_as_the_vocabulary_allows():
    runner = bounded(2048, a=10_000)
    runner._get_prompt_logprobs_dict([*range(10_000)], {"a": 10_000})
    assert max(runner.calls) == 8192


def test_a_runner_that_bounds_it_itself_is_left_alone():
    bound_prompt_logprobs(SimpleNamespace(), 2048)
    bound_prompt_logprobs(SimpleNamespace(model_runner=object()), 2048)


def test_where_prompts_are_read_at_once_they_are_not_too_long():
    longest = longest_prompt(2**17, in_parts=False)
    assert longest == 2048
    assert longest_prompt(2**17, in_parts=True) is None
    plain = Request("a", [1] * 2049, DEFAULTS)
    check_prompt_logprobs(plain, longest)
    scored = Request("a", [1] * 2049, DEFAULTS, GenerateOptions(prompt_logprobs=0))
    check_prompt_logprobs(scored, None)
    with pytest.raises(RequestError, match="2049 tokens, the maximum for this is 2048") as caught:
        check_prompt_logprobs(scored, longest)
    assert caught.value.subject == "prompt_logprobs"
    scored.prompt.pop()
    check_prompt_logprobs(scored, longest)


def test_log_probabilities_of_a_whole_vocabulary_are_bounded():
    """An operator may allow them (`max_logprobs: -1`); an answer has thousands of tokens."""
    size = 150_000
    model = ModelInfo(["m"], [], 10**6, 8, 10**6, 0, "x", vocab_size=size, max_logprobs=size)
    long = msgspec.structs.replace(DEFAULTS, max_tokens=1000)
    for options in (GenerateOptions(logprobs=size), GenerateOptions(prompt_logprobs=size)):
        check(msgspec.structs.replace(DEFAULTS, max_tokens=20), options, model, 20)
        with pytest.raises(RequestError, match="at most 4194 for 1000 tokens, got 150000"):
            check(long, options, model, 1000)
    usual = GenerateOptions(logprobs=20, prompt_logprobs=20)
    check(msgspec.structs.replace(DEFAULTS, max_tokens=10**6), usual, model, 10**6)
