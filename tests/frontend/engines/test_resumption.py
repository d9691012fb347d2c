"""What outlives an engine, and with what; the client's side is in `test_engine_client`."""

import msgspec
import pytest

from vgate.errors import EngineUnavailableError
from vgate.frontend.engines.replay import Replay
from vgate.frontend.engines.resumption import Survivors, identity_of, least, obstacle, resubmission
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.engines.suspects import Suspects
from vgate.wire.codec import unpack_token_ids
from vgate.wire.kept import Keep
from vgate.wire.messages import Embed, Generate, ModelInfo
from vgate.wire.model_files import FileInfo
from vgate.wire.parameters import (
    DEFAULTS,
    NO_OPTIONS,
    GenerateOptions,
    SamplingParams,
    StructuredOutput,
)

# A value of each parameter that shapes a sequence.
SHAPING = {
    "temperature": 0.5,
    "top_p": 0.5,
    "presence_penalty": 0.1,
    "frequency_penalty": -0.1,
    "seed": 7,
    "top_k": 3,
    "min_p": 0.1,
    "repetition_penalty": 1.1,
    "max_tokens": 9,
    "min_tokens": 9,
    "stop_token_ids": [3],
    "ignore_eos": True,
    "logit_bias": {3: 1.0},
    "allowed_token_ids": [3],
    "logprobs": 1,
    "prompt_logprobs": 1,
    "bad_words": [[3]],
    "structured": StructuredOutput("json_object"),
    "adapter": "a",
    "cache_salt": "s",
}
OBSTACLES = {"presence_penalty", "frequency_penalty", "seed", "bad_words"}
ALL = (*SamplingParams.__struct_fields__, *GenerateOptions.__struct_fields__)
MODEL = ModelInfo(["m"], [], 100, 4, 1000, 1, "fake")


def with_one(name):
    """Return complete parameters of which one is given."""
    value = {name: SHAPING[name]}
    if name in SamplingParams.__struct_fields__:
        return msgspec.structs.replace(DEFAULTS, **value), NO_OPTIONS
    return DEFAULTS, GenerateOptions(**value)


class Answer:
    touched = False

    def __init__(self, *, shown):
        self.shown = shown

    def restart(self, _sequence):
        return not self.shown

    def set_aside(self, _sequence, *, aside):
        pass


def sequence(*, shown=False, sampling=DEFAULTS, number=1):
    made = Sequence(Answer(shown=shown), 0)
    made.id = number
    made.message = Generate(number, b"\1\0\0\0", sampling, dedup_key=b"digest")
    made.started = True
    return made


class TestObstacle:
    def test_every_parameter_was_thought_of(self):
        resumable = SamplingParams.RESUMABLE | GenerateOptions.RESUMABLE
        assert set(ALL) == set(SHAPING) == resumable | OBSTACLES
        assert not resumable & OBSTACLES

    @pytest.mark.parametrize("name", ALL)
    def test_each_parameter(self, name):
        assert obstacle(*with_one(name)) == (name if name in OBSTACLES else None)

    def test_what_is_not_given_is_none(self):
        assert obstacle(DEFAULTS, NO_OPTIONS) is None
        assert obstacle(SamplingParams(), NO_OPTIONS) is None

    def test_a_seed_that_is_not_used_is_none(self):
        assert (
            obstacle(msgspec.structs.replace(DEFAULTS, seed=7, temperature=0), NO_OPTIONS) is None
        )

    def test_one_that_nobody_thought_of_is_one(self):
        class Later(SamplingParams, frozen=True, kw_only=True):
            newer: int | None = None

        class Defaults(SamplingParams, frozen=True, kw_only=True):
            newer: int | None = None

        assert obstacle(Later(newer=None), NO_OPTIONS) is None
        with pytest.raises(AttributeError, match="newer"):
            obstacle(Later(newer=3), NO_OPTIONS)


class TestResubmission:
    def test_from_the_beginning(self):
        message = resubmission(sequence(), 9)
        assert message == Generate(9, b"\1\0\0\0", DEFAULTS, dedup_key=b"digest", resumed=True)

    def test_after_its_tokens_it_is_shared_with_nobody(self):
        begun = sequence(shown=True)
        begun.generated = [5, 6]
        message = resubmission(begun, 9)
        assert unpack_token_ids(message.generated) == [5, 6]
        assert (message.id, message.dedup_key, message.resumed) == (9, b"", True)

    def test_an_embedding(self):
        one = sequence()
        one.message = Embed(1, b"\1\0\0\0", 3)
        assert resubmission(one, 9) == Embed(9, b"\1\0\0\0", 3, resumed=True)


class TestSurvivors:
    def test_what_nobody_saw_goes_on_whatever_it_is(self):
        seeded = msgspec.structs.replace(DEFAULTS, seed=7)
        assert Survivors(enabled=True).keep([sequence(sampling=seeded)]) == []

    def test_what_was_seen_goes_on_if_it_can(self):
        penalised = msgspec.structs.replace(DEFAULTS, presence_penalty=1.0)
        plain, other = sequence(shown=True), sequence(shown=True, sampling=penalised, number=2)
        survivors = Survivors(enabled=True)
        assert survivors.keep([plain, other]) == [other]
        assert survivors.take() == [plain]
        assert survivors.take() == []

    @pytest.mark.parametrize(
        "sure", [{"seed": 7}, {"temperature": 0.0, "presence_penalty": 1.0}, {"seed": 0}]
    )
    def test_what_was_seen_is_generated_again_if_it_is_no_chance(self, sure):
        sampling = msgspec.structs.replace(DEFAULTS, **{"frequency_penalty": 1.0, **sure})
        begun = sequence(shown=True, sampling=sampling)
        begun.generated = [5, 6]
        survivors = Survivors(enabled=True, continued=False)
        assert survivors.keep([begun]) == []
        message = resubmission(begun, 9)
        assert message == msgspec.structs.replace(begun.message, id=9, resumed=True)
        assert type(begun.answer) is Replay

    def test_nothing_begun_goes_on_where_continuing_is_not_exact(self):
        survivors = Survivors(enabled=True, continued=False)
        seen, unseen = sequence(shown=True), sequence(number=2)
        assert survivors.keep([seen, unseen]) == [seen]

    def test_what_an_engine_kept_ends_with_it(self):
        keep = Keep([b"s"], 0, 30.0, b"", joins=True)
        one, other, link = sequence(), sequence(number=2), sequence(number=3)
        for each in (one, other, link):
            each.message = msgspec.structs.replace(each.message, keep=keep)
        survivors = Survivors(enabled=True)
        assert survivors.keep([one], died=False, unloaded=True) == [one]
        assert survivors.keep([other]) == [other]
        assert survivors.keep([link], died=False) == []

    def test_the_second_death_is_its_end(self):
        survivors, one, other = Survivors(enabled=True), sequence(), sequence(number=2)
        assert survivors.keep([one]) == []
        assert survivors.take() == [one]
        assert survivors.keep([one, other]) == [one]

    def test_a_death_that_is_hardly_its_doing_counts_less(self):
        survivors, ran = Survivors(enabled=True, most_losses=4), sequence()
        ran.proved = True
        for _ in range(3):
            assert survivors.keep([ran]) == []
            survivors.take()
        assert (ran.deaths, ran.losses) == (0, 3)
        assert survivors.keep([ran]) == [ran]
        assert ran.deaths == 2

    def test_two_deaths_that_may_be_its_doing_are_too_many_in_any_order(self):
        survivors, one = Survivors(enabled=True, most_losses=9), sequence()
        for one.proved in (False, True, True):
            assert survivors.keep([one]) == []
            survivors.take()
        one.proved = False
        assert survivors.keep([one]) == [one]

    def test_a_death_before_it_began_is_not_its_own(self):
        survivors, queued = Survivors(enabled=True), sequence()
        for _ in range(5):
            queued.started = False
            assert survivors.keep([queued]) == []
            survivors.take()
        assert queued.deaths == 0

    def test_what_ends_by_deaths_is_remembered(self, tmp_path):
        suspects = Suspects(tmp_path, "m", 60.0)
        survivors, one = Survivors(enabled=True, suspects=suspects), sequence()
        for deaths in (0, 0, 2):
            assert survivors.deaths_of(one.message) == deaths
            survivors.keep([one])
            survivors.take()
        with pytest.raises(EngineUnavailableError):
            survivors.deaths_of(one.message)

    def test_none_do_when_it_is_off_or_over(self):
        one = sequence()
        assert Survivors(enabled=False).keep([one]) == [one]
        survivors, one = Survivors(enabled=True), sequence()
        survivors.keep([one])
        assert not survivors.closed
        assert survivors.close() == [one]
        assert survivors.closed

    def test_what_a_drained_engine_had_not_begun_goes_on_even_if_it_is_off(self):
        new, queued, begun, joined, died = (sequence(number=number) for number in range(5))
        begun.queued_s, joined.coalesced = 0.5, True
        survivors = Survivors(enabled=False)
        lost = [new, queued, begun, joined]
        assert survivors.keep(lost, died=False, drained=True) == [begun, joined]
        assert survivors.take() == [new, queued]
        assert survivors.keep([died]) == [died]

    def test_who_leaves_is_forgotten(self):
        survivors, one, other = Survivors(enabled=True), sequence(), sequence(number=2)
        survivors.keep([one, other])
        survivors.discard([one, sequence(number=3)])
        assert survivors.take() == [other]


class TestHeld:
    def test_only_so_many_are(self):
        survivors = Survivors(enabled=True, hold_s=5, most_held=2)
        for number in (1, 2):
            assert survivors.has_room()
            survivors.hold(sequence(number=number), 0)
        assert not survivors.has_room()
        survivors.discard([survivors.waiting[1]])
        assert survivors.has_room()

    def test_only_so_many_bytes_are(self):
        survivors, large = Survivors(enabled=True, hold_s=5, most_held=9), sequence()
        large.message = msgspec.structs.replace(large.message, prompt=bytes(64 * 1024 * 1024))
        survivors.hold(large, 0)
        assert not survivors.has_room()

    def test_none_is_without_time_or_at_the_end(self):
        assert not Survivors(enabled=True, most_held=2).has_room()
        survivors = Survivors(enabled=True, hold_s=5, most_held=2)
        survivors.close()
        assert not survivors.has_room()

    def test_it_waits_for_its_time_and_no_longer(self):
        survivors = Survivors(enabled=False, hold_s=5, most_held=9)
        first, second = sequence(), sequence(number=2)
        survivors.hold(first, 10)
        survivors.hold(second, 11)
        assert survivors.held_too_long(14.9) == []
        assert survivors.held_too_long(15) == [first]
        assert list(survivors.waiting.values()) == [second]
        assert survivors.take() == [second]
        assert survivors.held_too_long(99) == []


class TestSameModel:
    def test_an_engine_is_the_same_if_it_says_the_same(self):
        again = msgspec.structs.replace(MODEL, created=2, kv_cache_tokens=900, max_num_seqs=2)
        assert identity_of(again) == identity_of(MODEL)
        assert identity_of(msgspec.structs.replace(MODEL, names=["n"])) != identity_of(MODEL)
        assert identity_of(msgspec.structs.replace(MODEL, vocab_size=99)) != identity_of(MODEL)

    def test_replicas_may_have_contexts_of_their_own_and_requests_the_shortest(self):
        shorter = msgspec.structs.replace(MODEL, max_model_len=99)
        assert identity_of(shorter) == identity_of(MODEL)
        assert least(MODEL, [MODEL, shorter]).max_model_len == 99
        other = msgspec.structs.replace(shorter, vocab_size=9)
        assert least(MODEL, [MODEL, other]) == MODEL

    def test_and_its_files_are_the_same(self):
        file = FileInfo("tokenizer.json", b"digest", 3)
        model = msgspec.structs.replace(MODEL, files=[file], fingerprint="weights")
        assert identity_of(model) == identity_of(msgspec.structs.replace(model, files=[file]))
        other = msgspec.structs.replace(file, digest=b"another")
        assert identity_of(model) != identity_of(msgspec.structs.replace(model, files=[other]))
        assert identity_of(model) != identity_of(msgspec.structs.replace(model, fingerprint="new"))
