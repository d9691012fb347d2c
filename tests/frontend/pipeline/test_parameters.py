"""What a request may ask of a model and of its key."""

from copy import copy
from types import SimpleNamespace

import msgspec
import pytest

from vgate.errors import ContextLengthExceededError, InvalidValueError
from vgate.frontend.access.admission import NOBODY, Admission
from vgate.frontend.access.limiter import KeyLimits
from vgate.frontend.http import Ignored
from vgate.frontend.pipeline import Constraint, Conversation, Generation, Prompts, parameters
from vgate.wire.parameters import DEFAULTS, SamplingParams, StructuredOutput


def generation(max_tokens=16):
    prompt = Prompts(prompts=["p"])
    return Generation(model="m", prompt=prompt, sampling=SamplingParams(max_tokens=max_tokens))


def keyed(least):
    key = SimpleNamespace(min_priority=least)
    return SimpleNamespace(admission=SimpleNamespace(key=key))


class TestPriority:
    def test_without_a_key_none_is_urgent(self):
        nobody = SimpleNamespace(admission=Admission(None, None, NOBODY, KeyLimits(), {}))
        assert parameters.priority_of(nobody, None) == 0
        assert parameters.priority_of(nobody, 5) == 5
        with pytest.raises(InvalidValueError, match="at least 0"):
            parameters.priority_of(nobody, -1)

    @pytest.mark.parametrize(("least", "asked", "got"), [(-5, -5, -5), (-5, None, 0), (3, None, 3)])
    def test_within_what_the_key_allows(self, least, asked, got):
        assert parameters.priority_of(keyed(least), asked) == got

    def test_beyond_it(self):
        with pytest.raises(InvalidValueError) as caught:
            parameters.priority_of(keyed(-5), -6)
        assert caught.value.param == "priority"
        assert "-5" in caught.value.message
        assert "-6" in caught.value.message


@pytest.mark.parametrize(("asked", "got"), [(None, None), (0, 0), (3, 3), (-1, 300)])
@pytest.mark.parametrize("name", ["logprobs", "prompt_logprobs"])
def test_minus_one_is_the_whole_vocabulary(built_in, name, asked, got):
    wanted = msgspec.structs.replace(generation(), **{name: asked})
    model = copy(built_in)
    model.info = msgspec.structs.replace(built_in.info, vocab_size=300, max_logprobs=300)
    options = parameters.options_of(wanted, model, "", None, "")
    # The engine's messages have no negative numbers.
    msgspec.convert(msgspec.to_builtins(options), type(options))
    assert getattr(options, name) == got


class TestContext:
    def test_an_answer_may_take_what_is_left(self, built_in):
        limit = built_in.info.max_model_len
        ignored = Ignored()
        sampling = parameters.complete_sampling(
            generation(max_tokens=3), built_in, [[1] * (limit - 3)], ignored
        )
        assert (sampling.max_tokens, ignored.names) == (3, [])

    @pytest.mark.parametrize("wanted", [3, 10**9])
    def test_the_longest_prompt_decides(self, built_in, wanted):
        limit = built_in.info.max_model_len
        prompts = [[1], [1] * (limit - 2)]
        ignored = Ignored()
        sampling = parameters.complete_sampling(
            generation(max_tokens=wanted), built_in, prompts, ignored
        )
        assert (sampling.max_tokens, ignored.names) == (2, ["max_tokens"])

    @pytest.mark.parametrize(
        ("asked", "default", "got", "told"),
        [
            (None, 5, 5, []),
            (None, 10**6, 10, []),
            (None, None, 10, []),
            (8, 5, 8, []),
            (11, 5, 10, ["max_tokens"]),
        ],
    )
    def test_the_models_own_limit_counts_where_the_request_has_none(
        self, built_in, asked, default, got, told
    ):
        text, ignored = copy(built_in), Ignored()
        text.defaults = msgspec.structs.replace(DEFAULTS, max_tokens=default)
        prompt = [1] * (text.info.max_model_len - 10)
        sampling = parameters.complete_sampling(generation(asked), text, [prompt], ignored)
        assert (sampling.max_tokens, ignored.names) == (got, told)

    def test_a_prompt_without_room_for_an_answer(self, built_in):
        limit = built_in.info.max_model_len
        with pytest.raises(ContextLengthExceededError) as caught:
            parameters.complete_sampling(generation(), built_in, [[1], [1] * limit], Ignored())
        assert f"maximum context length is {limit} tokens. However, your" in caught.value.message
        assert f"resulted in {limit} tokens" in caught.value.message
        assert caught.value.param == "prompt"

    def test_an_empty_prompt(self, built_in):
        with pytest.raises(InvalidValueError, match="at least one token"):
            parameters.complete_sampling(generation(), built_in, [[]], Ignored())


class TestConstraint:
    @pytest.mark.parametrize("reasons", [False, True])
    def test_only_an_answer_in_a_conversation_may_begin_with_reasoning(self, built_in, *, reasons):
        text = copy(built_in)
        text.reasons = reasons
        constraint = Constraint(StructuredOutput("json_object"), "response_format")
        for prompt in (Prompts(prompts=["p"]), Conversation(messages=[])):
            asked = msgspec.structs.replace(generation(), prompt=prompt)
            options = parameters.options_of(asked, text, "", constraint, "")
            expected = reasons and isinstance(prompt, Conversation)
            assert options.structured.after_reasoning is expected
