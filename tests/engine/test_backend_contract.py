"""The contract between the loop and every backend, the simulated one and the real one.

The vLLM lane builds its engine once, in this process, on the tiny model.
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.tiny_model import make_tiny_adapter
from vgate.config import Config
from vgate.config.model import LoraAdapter, Model
from vgate.config.runtime import DRY_RUN
from vgate.config.schema import Batch, DryRun
from vgate.engine.backends import REGISTRY, load_backend
from vgate.engine.backends.base import Backend, BackendCounts, Output
from vgate.engine.blocks.cached import CachedBlocks
from vgate.engine.fill.filling import Filling
from vgate.engine.request import Request, RequestError
from vgate.errors import from_code
from vgate.wire.kv_blocks import block_keys, block_seed
from vgate.wire.logprobs import Logprobs
from vgate.wire.parameters import DEFAULTS, GenerateOptions, SamplingParams, StructuredOutput

MAX_MODEL_LEN = 512
MAX_NUM_SEQS = 8
MAX_STEPS = 5000
VOCAB_SIZE = 2048
# A grammar is compiled in a thread; until then a step does nothing.
GRAMMAR_TIMEOUT_S = 60

# Importing vLLM warns of much that is none of ours.
MARKS = {"vllm": [pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]}

numbers = itertools.count(1)
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(
    scope="session",
    params=[pytest.param(name, marks=MARKS.get(name, ())) for name in REGISTRY],
)
def engine(
    request: pytest.FixtureRequest,
    tiny_model_dir: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Backend]:
    """One engine a process: vLLM does not start a second one."""
    adapter = make_tiny_adapter(tmp_path_factory.mktemp("adapter"))
    config = Config(
        model=Model(
            model_id=str(tiny_model_dir),
            served_model_name=["tiny", "alias"],
            max_model_len=MAX_MODEL_LEN,
            lora_adapters=[LoraAdapter(name="tuned", path=str(adapter))],
        ),
        batch=Batch(max_num_seqs=MAX_NUM_SEQS),
        dry_run=DryRun(step_ms=0, prefill_tokens_per_s=1e9, kv_cache_tokens=100_000),
    )
    environment = dict(os.environ)
    backend = load_backend(request.param, config, lambda _phase: None)
    yield backend
    backend.shutdown()
    # vLLM sets variables that change every later child process.
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture(scope="session")
def cached(engine: Backend) -> CachedBlocks:
    """What the engine says to be in its prefix cache."""
    blocks = engine.follow_blocks()
    assert blocks is not None
    return blocks


@pytest.fixture
def backend(engine: Backend) -> Iterator[Backend]:
    """The engine, idle before and after the test."""
    assert not engine.has_work()
    yield engine
    run(engine)
    assert not engine.has_work()


def make_request(
    prompt: Iterable[int] = range(100, 140),
    options: GenerateOptions | None = None,
    **sampling: object,
) -> Request:
    chosen = SamplingParams(**{"max_tokens": 8, "temperature": 0.0, **sampling})
    request = Request(str(next(numbers)), list(prompt), chosen.over(DEFAULTS))
    request.options = options or GenerateOptions()
    return request


def run(backend: Backend, *requests: Request, steps: int | None = None) -> dict[str, list[Output]]:
    """Add requests and step until nothing is left to do, or so many times."""
    outputs: dict[str, list[Output]] = {request.key: [] for request in requests}
    for request in requests:
        backend.add(request)
    number = 0
    deadline = time.monotonic() + GRAMMAR_TIMEOUT_S
    while backend.has_work() and number != steps:
        brought = backend.step()
        if brought is None:
            assert time.monotonic() < deadline, "the backend never ran the model"
            time.sleep(0.001)
            continue
        number += 1
        assert number < MAX_STEPS, "the backend never came to rest"
        for output in brought:
            outputs.setdefault(output.key, []).append(output)
    return outputs


def refusal(backend: Backend, request: Request) -> RequestError:
    """Return why a request is refused, at once or later, and see that it harms nobody."""
    neighbour = make_request(max_tokens=12, ignore_eos=True)
    run(backend, neighbour, steps=2)
    try:
        outputs = run(backend, request)
    except RequestError as error:
        refused, outputs = error, run(backend)
    else:
        (only,) = outputs[request.key]
        assert only.error is not None
        assert (only.token_ids, only.finish_reason) == ([], None)
        refused = only.error
    assert_well_ended(outputs[neighbour.key], "length")
    assert from_code(refused.code, refused.reason).status in {400, 404}
    return refused


def tokens(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def assert_well_ended(outputs: list[Output], reason: str) -> None:
    assert [output.finish_reason for output in outputs[:-1]] == [None] * (len(outputs) - 1)
    assert outputs[-1].finish_reason == reason
    assert all(output.error is None for output in outputs)


class TestFill:
    """All that is promised runs at once, as before an engine is ready."""

    def test_it_fills_the_cache_and_leaves_nothing(self, backend, cached):
        prompt = range(200, 400)
        run(backend, make_request(prompt))
        filling = Filling(backend, lambda *_: None, 200)
        filling.run()
        assert filling.whole
        assert filling.longest == MAX_MODEL_LEN - 4
        most = min(backend.model.kv_cache_tokens, (MAX_NUM_SEQS + 1) * MAX_MODEL_LEN)
        assert filling.tokens >= 0.85 * most
        assert backend.counts() == BackendCounts()
        assert backend.kv_cache_usage() == 0
        assert not cached.keys
        again = make_request(prompt)
        assert run(backend, again)[again.key][0].facts.cached_tokens == 0


class TestGoingOn:
    """A sequence that another engine began."""

    @pytest.mark.parametrize("at", [1, 7, 19])
    @pytest.mark.parametrize(
        "sampling",
        [
            {"ignore_eos": True},
            {"min_tokens": 15, "repetition_penalty": 1.3},
            {"ignore_eos": True, "logit_bias": {105: -100, 110: -100}, "seed": 5},
        ],
        ids=["plain", "min_tokens", "bias"],
    )
    def test_it_continues_as_if_nothing_had_happened(self, backend, sampling, at):
        options = GenerateOptions(logprobs=2, prompt_logprobs=1)
        whole = make_request(options=options, max_tokens=20, **sampling)
        expected = run(backend, whole)[whole.key]
        if len(tokens(expected)) <= at:
            pytest.skip("its answer is shorter")
        rest = make_request(options=options, max_tokens=20, **sampling)
        rest.continued = tokens(expected)[:at]
        got = run(backend, rest)[rest.key]
        assert tokens(got) == tokens(expected)[at:]
        assert_well_ended(got, expected[-1].finish_reason)
        # Those of the prompt were told with the first token.
        assert all(output.prompt_logprobs is None for output in got)
        places = [place for output in got for place in output.logprobs]
        before = [place for output in expected for place in output.logprobs][at:]
        assert [place.token_ids for place in places] == [place.token_ids for place in before]
        for place, other in zip(places, before, strict=True):
            assert place.unpack()[1] == pytest.approx(other.unpack()[1], abs=1e-3)

    def test_min_tokens_counts_what_was_generated_before(self, backend):
        # Without a token that may come but the end, it comes as soon as it may.
        end = 2
        asked = {"max_tokens": 12, "min_tokens": 8, "stop_token_ids": [end, 105]}
        whole = make_request(logit_bias={105: 100}, **asked)
        expected = tokens(run(backend, whole)[whole.key])
        rest = make_request(logit_bias={105: 100}, **asked)
        rest.continued = expected[:5]
        assert tokens(run(backend, rest)[rest.key]) == expected[5:]
        assert len(expected) == 9

    def test_it_ends_at_the_context_s_end(self, backend):
        prompt = range(100, 100 + MAX_MODEL_LEN - 4)
        rest = make_request(prompt, max_tokens=4, ignore_eos=True)
        rest.continued = [100, 101, 102]
        outputs = run(backend, rest)[rest.key]
        assert len(tokens(outputs)) == 1
        assert_well_ended(outputs, "length")


class TestModel:
    def test_it_describes_what_was_configured(self, backend, tiny_model_dir):
        model = backend.model
        assert model.names == ["tiny", "alias"]
        assert model.max_model_len == MAX_MODEL_LEN
        assert model.max_num_seqs == MAX_NUM_SEQS
        assert model.kv_cache_tokens >= MAX_MODEL_LEN
        assert model.created > 0
        assert model.vocab_size == VOCAB_SIZE
        assert model.max_logprobs == 20

    def test_its_files_are_the_models(self, backend, tiny_model_dir):
        described = {file.name: file for file in backend.model.files}
        contents = backend.files.contents
        assert described.keys() == contents.keys() >= {"tokenizer.json", "tokenizer_config.json"}
        for name, content in contents.items():
            own = (tiny_model_dir / name).read_bytes()
            if content != own:
                # Completed by what the engine's libraries know.
                assert json.loads(own).items() <= json.loads(content).items()
                assert name != "tokenizer.json"
            file = described[name]
            assert (file.size, file.digest) == (len(content), hashlib.sha256(content).digest())
        assert backend.model.fingerprint

    def test_it_stays_the_same(self, backend):
        before = backend.model
        run(backend, make_request())
        assert backend.model == before


class TestGeneration:
    def test_max_tokens_ends_with_length(self, backend):
        request = make_request(max_tokens=12, ignore_eos=True)
        outputs = run(backend, request)[request.key]
        assert len(tokens(outputs)) == 12
        assert_well_ended(outputs, "length")

    @pytest.mark.parametrize("max_tokens", [1, 2])
    def test_short_answers(self, backend, max_tokens):
        request = make_request(max_tokens=max_tokens, ignore_eos=True)
        outputs = run(backend, request)[request.key]
        assert len(tokens(outputs)) == max_tokens
        assert_well_ended(outputs, "length")

    def test_outputs_are_plain(self, backend):
        request = make_request()
        for output in run(backend, request)[request.key]:
            assert type(output.token_ids) is list
            assert all(type(token) is int for token in output.token_ids)
            assert type(output.key) is str
            if output.facts is not None:
                assert type(output.facts.cached_tokens) is type(output.facts.preemptions) is int
                assert 0 <= output.facts.cached_tokens <= len(request.prompt)

    def test_facts_come_with_the_first_tokens_and_at_the_end(self, backend):
        request = make_request(max_tokens=5, ignore_eos=True)
        request.continued = [1, 2]
        outputs = run(backend, request)[request.key]
        assert len(outputs) == 3
        assert [output.facts is not None for output in outputs] == [True, False, True]

    def test_greedy_answers_repeat(self, backend):
        first, second = make_request(max_tokens=20), make_request(max_tokens=20)
        one, other = run(backend, first)[first.key], run(backend, second)[second.key]
        assert tokens(one) == tokens(other)

    def test_seeded_answers_repeat(self, backend):
        first, second = (
            make_request(max_tokens=20, temperature=1.0, seed=5, ignore_eos=True) for _ in range(2)
        )
        one, other = run(backend, first)[first.key], run(backend, second)[second.key]
        assert tokens(one) == tokens(other)

    def test_a_stop_token_ends_it_and_is_in_the_last_output(self, backend):
        free = make_request(max_tokens=20, ignore_eos=True)
        said = tokens(run(backend, free)[free.key])
        stop = said[10]
        end = said.index(stop) + 1
        request = make_request(max_tokens=20, ignore_eos=True, stop_token_ids=[stop])
        outputs = run(backend, request)[request.key]
        assert tokens(outputs) == said[:end]
        assert_well_ended(outputs, "stop")
        # A frontend takes the last token of that output for the stop token.
        assert outputs[-1].token_ids[-1] == stop

    def test_min_tokens_delays_the_end(self, backend):
        free = make_request(max_tokens=30, ignore_eos=True)
        stop = tokens(run(backend, free)[free.key])[0]
        request = make_request(max_tokens=30, min_tokens=15, stop_token_ids=[stop], ignore_eos=True)
        outputs = run(backend, request)[request.key]
        assert len(tokens(outputs)) >= 15
        assert stop not in tokens(outputs)[:15]

    def test_min_tokens_holds_for_every_stop_token(self, backend):
        free = make_request(max_tokens=30, ignore_eos=True)
        said = tokens(run(backend, free)[free.key])
        stops = sorted(set(said))
        request = make_request(max_tokens=30, min_tokens=15, stop_token_ids=stops)
        outputs = run(backend, request)[request.key]
        assert len(tokens(outputs)) >= 15

    def test_a_prompt_that_leaves_room_for_one_token(self, backend):
        request = make_request([7] * (MAX_MODEL_LEN - 1), max_tokens=1)
        outputs = run(backend, request)[request.key]
        assert len(tokens(outputs)) == 1

    def test_a_prompt_of_one_token(self, backend):
        request = make_request([7], ignore_eos=True)
        assert len(tokens(run(backend, request)[request.key])) == 8


class TestBatch:
    def test_a_full_batch_completes(self, backend):
        requests = [
            make_request(range(50, 60 + n), max_tokens=5 + n, ignore_eos=True)
            for n in range(MAX_NUM_SEQS)
        ]
        outputs = run(backend, *requests)
        assert set(outputs) == {request.key for request in requests}
        for request in requests:
            assert len(tokens(outputs[request.key])) == request.max_tokens
            assert_well_ended(outputs[request.key], "length")

    def test_sequences_advance_together(self, backend):
        requests = [make_request(max_tokens=30, ignore_eos=True) for _ in range(4)]
        outputs = run(backend, *requests, steps=20)
        counts = [len(tokens(outputs[request.key])) for request in requests]
        assert min(counts) > 0
        assert max(counts) - min(counts) <= 2

    def test_a_new_request_joins_a_running_batch(self, backend):
        first = make_request(max_tokens=40, ignore_eos=True)
        run(backend, first, steps=5)
        second = make_request(max_tokens=5, ignore_eos=True)
        outputs = run(backend, second)
        assert len(tokens(outputs[second.key])) == 5
        assert len(tokens(outputs[first.key])) >= 30

    def test_a_key_can_be_reused_after_the_request_ended(self, backend):
        request = make_request(ignore_eos=True)
        for _ in range(2):
            assert len(tokens(run(backend, request)[request.key])) == 8


class TestAbort:
    def test_an_aborted_sequence_outputs_nothing_more_and_others_continue(self, backend):
        leaving = make_request(max_tokens=300, ignore_eos=True)
        staying = make_request(max_tokens=20, ignore_eos=True)
        run(backend, leaving, staying, steps=3)
        backend.abort([leaving.key])
        outputs = run(backend)
        assert leaving.key not in outputs
        assert_well_ended(outputs[staying.key], "length")

    def test_before_the_first_step(self, backend):
        request = make_request()
        backend.add(request)
        backend.abort([request.key])
        assert run(backend) == {}

    def test_unknown_and_ended_keys_are_ignored(self, backend):
        request = make_request()
        run(backend, request)
        backend.abort([request.key, "stranger"])
        backend.abort([])
        assert run(backend) == {}

    def test_twice(self, backend):
        request = make_request(max_tokens=300, ignore_eos=True)
        run(backend, request, steps=2)
        backend.abort([request.key])
        backend.abort([request.key])
        assert run(backend) == {}

    def test_it_frees_the_cache(self, backend):
        requests = [make_request([7] * 300, max_tokens=200, ignore_eos=True) for _ in range(4)]
        run(backend, *requests, steps=5)
        assert backend.kv_cache_usage() > 0
        backend.abort([request.key for request in requests])
        run(backend)
        assert backend.kv_cache_usage() == pytest.approx(0, abs=0.01)


class TestCacheUsage:
    def test_usage_is_a_fraction_and_returns_to_zero(self, backend):
        assert backend.kv_cache_usage() == pytest.approx(0, abs=0.01)
        request = make_request([7] * 300, max_tokens=100, ignore_eos=True)
        run(backend, request, steps=10)
        assert 0 < backend.kv_cache_usage() <= 1
        run(backend)
        assert backend.kv_cache_usage() == pytest.approx(0, abs=0.01)


EXTREMES = {
    "temperature": [0.0, 1e-6, 2.0],
    "top_p": [1e-6, 1.0],
    "presence_penalty": [-2.0, 2.0],
    "frequency_penalty": [-2.0, 2.0],
    "seed": [-(2**63), -1, 0, 2**63 - 1],
    "top_k": [-1, 0, 1, 2**31 - 1],
    "min_p": [0.0, 1.0],
    "repetition_penalty": [0.01, 2.0],
    "max_tokens": [1, 100],
    "min_tokens": [0, 8],
    "stop_token_ids": [[], [0], [2**31 - 1], list(range(64))],
    "ignore_eos": [True, False],
    "logit_bias": [{}, {0: -100.0}, {0: 100.0}, {2**31 - 1: 1.0}, dict.fromkeys(range(2000), 1.0)],
    "allowed_token_ids": [[0], [7, 7], [VOCAB_SIZE], list(range(VOCAB_SIZE))],
}


class TestParameters:
    """Values within our bounds must not break a step, which would end every request."""

    def test_every_sampling_field_has_an_extreme(self):
        assert set(EXTREMES) == set(SamplingParams.__struct_fields__)

    @pytest.mark.parametrize(
        ("name", "value"),
        [(name, value) for name, values in EXTREMES.items() for value in values],
        ids=lambda part: str(part)[:30],
    )
    def test_an_extreme_value_is_run_or_refused_and_affects_no_other_request(
        self, backend, name, value
    ):
        neighbour = make_request(max_tokens=12, ignore_eos=True)
        run(backend, neighbour, steps=2)
        request = make_request(**{"temperature": 1.0, name: value})
        try:
            outputs = run(backend, request, steps=500)
        except RequestError:
            outputs = run(backend)
            assert request.key not in outputs
        else:
            assert outputs[request.key][-1].finish_reason in {"stop", "length"}
        assert_well_ended(outputs[neighbour.key], "length")

    @pytest.mark.parametrize("stop", [2**31 - 1, 1_000_000])
    def test_a_stop_token_outside_the_vocabulary_with_min_tokens(self, backend, stop):
        # min_tokens masks the stop tokens' logits: an index that isn't there would be a crash.
        neighbour = make_request(max_tokens=12, ignore_eos=True)
        run(backend, neighbour, steps=2)
        request = make_request(min_tokens=4, stop_token_ids=[stop], ignore_eos=True)
        with contextlib.suppress(RequestError):
            backend.add(request)
        outputs = run(backend)
        assert_well_ended(outputs[neighbour.key], "length")


def logprobs_of(outputs: list[Output]) -> list[Logprobs]:
    return [one for output in outputs for one in output.logprobs or []]


def assert_probabilities(place: Logprobs, count: int) -> None:
    """The token itself, then the most likely ones in their order."""
    ids, logprobs = place.unpack()
    assert len(ids) == len(logprobs) == count + 1
    assert len(place.token_ids) == len(place.logprobs)
    assert type(place.rank) is int
    top_ids, top = ids[1:], logprobs[1:]
    assert len(set(top_ids)) == count
    assert list(top) == sorted(top, reverse=True)
    assert sum(map(math.exp, top)) <= 1 + 1e-3
    assert (place.token_id in top_ids) == (place.rank <= count)


class TestLogprobs:
    def test_there_are_none_unless_requested(self, backend):
        request = make_request()
        for output in run(backend, request)[request.key]:
            assert output.logprobs is None
            assert output.prompt_logprobs is None

    @pytest.mark.parametrize("count", [0, 1, 5, 20])
    def test_one_for_each_token(self, backend, count):
        request = make_request(options=GenerateOptions(logprobs=count), ignore_eos=True)
        outputs = run(backend, request)[request.key]
        assert [len(output.logprobs) for output in outputs] == [
            len(output.token_ids) for output in outputs
        ]
        places = logprobs_of(outputs)
        assert [place.token_id for place in places] == tokens(outputs)
        for place in places:
            assert_probabilities(place, count)
            assert place.rank == 1  # it is greedy
        assert all(output.prompt_logprobs is None for output in outputs)

    def test_each_request_gets_its_own_number(self, backend):
        counts = [None, 0, 7, 2]
        requests = [make_request(options=GenerateOptions(logprobs=count)) for count in counts]
        outputs = run(backend, *requests)
        for request, count in zip(requests, counts, strict=True):
            widths = {len(place.unpack()[0]) for place in logprobs_of(outputs[request.key])}
            assert widths == (set() if count is None else {count + 1})

    def test_a_stop_token_has_its_own(self, backend):
        free = make_request(ignore_eos=True)
        stop = tokens(run(backend, free)[free.key])[4]
        request = make_request(options=GenerateOptions(logprobs=1), stop_token_ids=[stop])
        outputs = run(backend, request)[request.key]
        assert_well_ended(outputs, "stop")
        assert logprobs_of(outputs)[-1].token_id == stop

    @pytest.mark.parametrize("count", [0, 3])
    @pytest.mark.parametrize("size", [1, 2, 300])
    def test_a_prompt_has_one_for_each_token_but_the_first(self, backend, count, size):
        prompt = [(7 * n) % 1000 for n in range(size)]
        # The second time the prompt may be in the cache.
        for _ in range(2):
            request = make_request(prompt, GenerateOptions(prompt_logprobs=count), ignore_eos=True)
            first, *others = run(backend, request)[request.key]
            assert first.token_ids
            assert first.prompt_logprobs[0] is None
            places = first.prompt_logprobs[1:]
            assert [place.token_id for place in places] == prompt[1:]
            for place in places:
                assert_probabilities(place, count)
            assert all(output.prompt_logprobs is None for output in others)
            assert all(output.logprobs is None for output in (first, *others))

    def test_the_same_request_gets_the_same(self, backend):
        options = GenerateOptions(logprobs=3, prompt_logprobs=2)
        first, second = (make_request(options=options) for _ in range(2))
        one = run(backend, first)[first.key]
        other = run(backend, second)[second.key]
        assert one[0].prompt_logprobs[1].token_ids == other[0].prompt_logprobs[1].token_ids
        for here, there in zip(logprobs_of(one), logprobs_of(other), strict=True):
            assert here.token_ids == there.token_ids
            assert here.unpack()[1] == pytest.approx(there.unpack()[1], abs=1e-3)

    @pytest.mark.parametrize("name", ["logprobs", "prompt_logprobs"])
    def test_too_many_are_refused(self, backend, name):
        refused = refusal(backend, make_request(options=GenerateOptions(**{name: 21})))
        assert (refused.code, refused.subject) == ("invalid_value", name)
        assert "at most 20" in refused.reason


class TestTokenRules:
    @pytest.fixture
    def said(self, backend) -> list[int]:
        request = make_request(max_tokens=20, ignore_eos=True)
        return tokens(run(backend, request)[request.key])

    def generate(self, backend, options=None, **sampling) -> list[int]:
        request = make_request(options=options, max_tokens=20, ignore_eos=True, **sampling)
        outputs = run(backend, request)[request.key]
        assert_well_ended(outputs, "length")
        return tokens(outputs)

    def test_only_allowed_tokens_are_output(self, backend, said):
        allowed = [said[3], 5, 9]
        assert set(self.generate(backend, allowed_token_ids=allowed)) <= set(allowed)
        assert self.generate(backend, allowed_token_ids=[3]) == [3] * 20

    def test_a_bias_bans_and_forces(self, backend, said):
        assert said[2] not in self.generate(backend, logit_bias={said[2]: -100.0})
        assert self.generate(backend, logit_bias={1234: 100.0}) == [1234] * 20

    def test_bad_words_are_not_output(self, backend, said):
        changed = self.generate(backend, GenerateOptions(bad_words=[[said[0]], [said[5]]]))
        assert not {said[0], said[5]} & set(changed)

    def test_only_the_last_token_of_a_bad_phrase_is_excluded(self, backend, said):
        changed = self.generate(backend, GenerateOptions(bad_words=[said[2:5]]))
        assert changed[:4] == said[:4]
        assert changed[4] != said[4]

    def test_a_forced_end_token_ends_it(self, backend, tiny_model_dir):
        end = json.loads((tiny_model_dir / "config.json").read_bytes())["eos_token_id"]
        request = make_request(logit_bias={end: 100.0}, max_tokens=20)
        outputs = run(backend, request)[request.key]
        assert_well_ended(outputs, "stop")
        assert tokens(outputs) == [end]

    @pytest.mark.parametrize(
        ("param", "options", "sampling"),
        [
            ("logit_bias", {}, {"logit_bias": {VOCAB_SIZE: 1.0}}),
            ("logit_bias", {}, {"logit_bias": dict.fromkeys(range(1025), 1.0)}),
            ("allowed_token_ids", {}, {"allowed_token_ids": [VOCAB_SIZE]}),
            ("allowed_token_ids", {}, {"allowed_token_ids": list(range(1025))}),
            ("bad_words", {"bad_words": [[]]}, {}),
            ("bad_words", {"bad_words": [[1], [2, VOCAB_SIZE]]}, {}),
            ("bad_words", {"bad_words": [[n] for n in range(129)]}, {}),
            ("bad_words", {"bad_words": [list(range(1025))]}, {}),
        ],
    )
    def test_invalid_options_are_refused(self, backend, param, options, sampling):
        request = make_request(options=GenerateOptions(**options), **sampling)
        refused = refusal(backend, request)
        assert (refused.code, refused.subject) == ("invalid_value", param)


SCHEMA = {
    "type": "object",
    "properties": {
        "ok": {"type": "boolean"},
        "size": {"enum": ["s", "m"]},
        "tags": {"type": "array", "items": {"type": "string", "maxLength": 4}, "maxItems": 2},
    },
    "required": ["ok", "size", "tags"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer(tiny_model_dir: Path) -> Tokenizer:
    return Tokenizer.from_file(str(tiny_model_dir / "tokenizer.json"))


# What the last message says: the dry-run engine can follow a regular expression that it matches.
MESSAGE = "415-abc"


class TestStructured:
    def request(self, tokenizer, structured, message=MESSAGE, **sampling) -> Request:
        template = f"<|im_start|>user\n{message}<|im_end|>\n<|im_start|>assistant\n"
        prompt = tokenizer.encode(template).ids
        options = GenerateOptions(structured=structured)
        return make_request(prompt, options, **{"max_tokens": 200, **sampling})

    def text(self, backend, tokenizer, structured, **sampling) -> str:
        request = self.request(tokenizer, structured, **sampling)
        outputs = run(backend, request)[request.key]
        assert_well_ended(outputs, "stop")
        return tokenizer.decode(tokens(outputs))

    @pytest.mark.parametrize("temperature", [0.0, 1.0])
    def test_json_conforms_to_its_schema(self, backend, tokenizer, temperature):
        structured = StructuredOutput("json", json.dumps(SCHEMA))
        text = self.text(backend, tokenizer, structured, temperature=temperature, seed=1)
        value = json.loads(text)
        assert set(value) == {"ok", "size", "tags"}
        assert type(value["ok"]) is bool
        assert value["size"] in {"s", "m"}
        assert all(type(tag) is str and len(tag) <= 4 for tag in value["tags"])
        assert len(value["tags"]) <= 2

    def test_json_is_compact(self, backend, tokenizer):
        schema = json.dumps({**SCHEMA, "properties": {n: {"const": 1} for n in ("a", "b")}})
        schema = schema.replace('["ok", "size", "tags"]', '["a", "b"]')
        structured = StructuredOutput("json", schema, disable_any_whitespace=True)
        assert self.text(backend, tokenizer, structured) == '{"a":1,"b":1}'

    def test_a_json_object_is_one(self, backend, tokenizer):
        # A model with random weights would write one without end.
        braces = {tokenizer.encode(brace).ids[0]: 99.0 for brace in "{}"}
        request = self.request(tokenizer, StructuredOutput("json_object"), logit_bias=braces)
        outputs = run(backend, request)[request.key]
        assert_well_ended(outputs, "stop")
        assert type(json.loads(tokenizer.decode(tokens(outputs)))) is dict

    def test_a_choice_is_one_of_them(self, backend, tokenizer):
        structured = StructuredOutput("choice", ["yes", "no", 'per"haps'])
        assert self.text(backend, tokenizer, structured) in {"yes", "no", 'per"haps'}

    def test_a_regular_expression_matches(self, backend, tokenizer):
        structured = StructuredOutput("regex", "[0-9]{3}-[a-c]{3}")
        assert re.fullmatch("[0-9]{3}-[a-c]{3}", self.text(backend, tokenizer, structured))

    def test_different_constraints_share_a_batch(self, backend, tokenizer):
        choices = [["aa"], ["bb"], ["cc"]]
        requests = [self.request(tokenizer, StructuredOutput("choice", one)) for one in choices]
        outputs = run(backend, *requests, make_request())
        texts = [tokenizer.decode(tokens(outputs[request.key])) for request in requests]
        assert texts == ["aa", "bb", "cc"]

    @pytest.mark.parametrize("at", [1, 3, 6])
    @pytest.mark.parametrize(
        "structured",
        [
            StructuredOutput("json", json.dumps(SCHEMA), disable_any_whitespace=True),
            StructuredOutput("choice", ["yes and no and perhaps", "no and yes"]),
            StructuredOutput("regex", "[0-9]{3}-[a-c]{3}"),
        ],
        ids=lambda structured: structured.kind,
    )
    def test_it_continues_after_the_tokens_of_another_engine(
        self, backend, tokenizer, structured, at
    ):
        whole = self.request(tokenizer, structured)
        expected = tokens(run(backend, whole)[whole.key])
        if len(expected) <= at:
            pytest.skip("its answer is shorter")
        rest = self.request(tokenizer, structured)
        rest.continued = expected[:at]
        outputs = run(backend, rest)[rest.key]
        assert tokens(outputs) == expected[at:]
        assert_well_ended(outputs, "stop")

    def test_what_it_forbids_can_not_be_continued(self, backend, tokenizer):
        if backend.model.backend == DRY_RUN:
            pytest.skip("the dry-run engine's output depends on the prompt alone")
        request = self.request(tokenizer, StructuredOutput("choice", ["yes"]))
        request.continued = tokenizer.encode("no").ids
        other = make_request()
        outputs = run(backend, request, other)
        assert outputs[request.key][-1].error.subject == "constraint"
        assert_well_ended(outputs[other.key], "length")

    def test_logprobs_come_with_it(self, backend, tokenizer):
        request = self.request(tokenizer, StructuredOutput("choice", ["yes"]))
        request.options = GenerateOptions(logprobs=2, structured=request.options.structured)
        outputs = run(backend, request)[request.key]
        assert [place.token_id for place in logprobs_of(outputs)] == tokens(outputs)

    @pytest.mark.parametrize(
        ("kind", "value"),
        [
            ("json", "{"),
            ("json", "[]"),
            ("json", '{"type": "nonsense"}'),
            ("json", '{"$ref": "#/nowhere"}'),
            ("json", '{"$ref": "https://example.com/schema"}'),
            ("json", '{"type": "string", "not": {"const": "x"}}'),
            ("json", '{"type": "object", "if": {"required": ["a"]}, "then": {"required": ["b"]}}'),
            ("json", '{"type": "object", "dependentRequired": {"a": ["b"]}}'),
            ("json", '{"type": "string", "contentEncoding": 1, "pattern": "("}'),
            ("json", "[" * 3000 + "]" * 3000),
            ("json", ["{}"]),
            ("regex", "("),
            ("regex", "a\0b"),
            ("choice", []),
            ("choice", "yes"),
            ("grammar", ""),
            ("grammar", "nonsense"),
            ("structural_tag", "{}"),
        ],
    )
    def test_an_invalid_constraint_is_refused(self, backend, tokenizer, kind, value):
        request = self.request(tokenizer, StructuredOutput(kind, value))
        refused = refusal(backend, request)
        assert refused.code in {"invalid_value", "unsupported_parameter"}
        assert refused.subject == "constraint"

    @pytest.mark.parametrize(
        ("sampling", "param"),
        [({"ignore_eos": True}, "ignore_eos"), ({"allowed_token_ids": [5]}, "constraint")],
    )
    def test_a_conflict_with_another_parameter_is_refused(
        self, backend, tokenizer, sampling, param
    ):
        structured = StructuredOutput("choice", ["yes"])
        refused = refusal(backend, self.request(tokenizer, structured, **sampling))
        assert refused.subject == param

    def test_an_abort_while_its_grammar_compiles(self, backend, tokenizer):
        request = self.request(tokenizer, StructuredOutput("json", json.dumps(SCHEMA)))
        backend.add(request)
        assert backend.has_work()
        backend.abort([request.key])
        assert run(backend) == {}


class TestAdapters:
    def test_a_request_with_an_adapter_runs(self, backend):
        request = make_request(options=GenerateOptions(adapter="tuned"), ignore_eos=True)
        assert len(tokens(run(backend, request)[request.key])) == 8

    def test_it_does_not_affect_other_requests_in_the_batch(self, backend):
        alone = make_request(max_tokens=20, ignore_eos=True)
        expected = tokens(run(backend, alone)[alone.key])
        tuned = GenerateOptions(adapter="tuned")
        requests = [
            make_request(max_tokens=20, ignore_eos=True, options=options)
            for options in (None, tuned, None, tuned)
        ]
        outputs = run(backend, *requests)
        plain, _, other, _ = (tokens(outputs[request.key]) for request in requests)
        assert (plain, other) == (expected, expected)

    def test_an_unknown_adapter_is_refused(self, backend):
        refused = refusal(backend, make_request(options=GenerateOptions(adapter="other")))
        assert (refused.code, refused.subject) == ("model_not_found", "adapter")
        assert "`other`" in refused.reason
        assert "`tuned`" in refused.reason


class TestPrefixCache:
    """Prompts share full blocks, which the backend can name."""

    @staticmethod
    def hits(backend: Backend, prompt: list[int], options=None, **fields) -> int:
        """Return how many tokens of a prompt were cached."""
        request = make_request(prompt, options, **{"max_tokens": 1, "ignore_eos": True, **fields})
        before = backend.counts()
        outputs = run(backend, request)[request.key]
        found = outputs[0].facts.cached_tokens
        after = backend.counts()
        assert after.prefix_cache_queries - before.prefix_cache_queries == len(prompt)
        assert after.prefix_cache_hits - before.prefix_cache_hits == found
        return found

    @staticmethod
    def prompt(count: int) -> list[int]:
        """Return a prompt that nobody has sent before."""
        number = next(numbers)
        return [(number * 7919 + place * 31 + number * place) % 2000 for place in range(count)]

    def keys_of(self, cached: CachedBlocks, prompt, adapter="", salt="") -> list[bool]:
        """Return which of a prompt's blocks are said to be cached."""
        keys = block_keys(prompt, cached.block_tokens, block_seed(adapter, salt))
        return [key in set(cached.keys.values()) for key in keys]

    @pytest.mark.parametrize("extra", [0, 1, 5])
    def test_whole_blocks_and_never_the_last_token(self, backend, cached, extra):
        block = backend.model.kv_block_tokens
        prompt = self.prompt(2 * cached.block_tokens + extra)
        assert self.hits(backend, prompt) == 0
        assert self.keys_of(cached, prompt) == [True, True]
        assert self.hits(backend, prompt) == (len(prompt) - 1) // block * block
        other = [*prompt[: block + block // 2], *self.prompt(block)]
        assert self.hits(backend, other) == block

    def test_what_the_keys_say_is_found(self, backend, cached):
        size = cached.block_tokens
        prompts = [self.prompt(size * n + 3 * n) for n in (1, 2, 3)]
        prompts.append([*prompts[2][: 2 * size], *self.prompt(size)])
        for prompt in prompts:
            said = cached.cached_tokens(prompt, block_seed("", ""))
            found = self.hits(backend, prompt)
            assert said <= found < said + size
        for prompt in prompts:
            assert all(self.keys_of(cached, prompt))

    def test_an_answer_is_cached_but_for_its_last_token(self, backend, cached):
        size, block = cached.block_tokens, backend.model.kv_block_tokens
        prompt = self.prompt(size - 10)
        for more in (10, 11):
            request = make_request([*prompt, more], max_tokens=10, ignore_eos=True)
            answer = tokens(run(backend, request)[request.key])
            whole = [*request.prompt, *answer]
            # The block is full without the last token, which no step has computed.
            assert len(whole) == size + 1
            assert self.keys_of(cached, whole) == [True]
            assert self.keys_of(cached, [*whole[:-2], 1, 1]) == [False]
            assert self.hits(backend, [*whole, 5]) == size // block * block
            shorter = make_request([*prompt, more + 2], max_tokens=9, ignore_eos=True)
            answer = tokens(run(backend, shorter)[shorter.key])
            assert self.keys_of(cached, [*shorter.prompt, *answer]) == [False]

    def test_one_before_it_in_the_same_step_counts(self, backend, cached):
        block = backend.model.kv_block_tokens
        prompt = self.prompt(block + 9)
        requests = [make_request(prompt, max_tokens=3, ignore_eos=True) for _ in range(3)]
        outputs = run(backend, *requests)
        found = [outputs[request.key][0].facts.cached_tokens for request in requests]
        assert found == [0, block, block]

    @pytest.mark.parametrize(("adapter", "salt"), [("tuned", ""), ("", "mine"), ("tuned", "mine")])
    def test_adapters_and_salts_share_nothing(self, backend, cached, adapter, salt):
        prompt = self.prompt(cached.block_tokens + 1)
        options = GenerateOptions(adapter=adapter, cache_salt=salt)
        assert self.hits(backend, prompt) == 0
        assert self.keys_of(cached, prompt, adapter, salt) == [False]
        assert self.hits(backend, prompt, options) == 0
        assert self.keys_of(cached, prompt, adapter, salt) == [True]
        assert self.hits(backend, prompt, options) == cached.block_tokens

    def test_a_prompt_whose_log_probabilities_are_asked_for_is_computed(self, backend, cached):
        prompt = self.prompt(cached.block_tokens + 1)
        for _ in range(2):
            assert self.hits(backend, prompt, GenerateOptions(prompt_logprobs=1)) == 0
        assert self.keys_of(cached, prompt) == [True]

    def test_what_is_evicted_is_told(self, backend, cached):
        cached.watched = True
        cached.take()
        first = self.prompt(MAX_MODEL_LEN - 1)
        self.hits(backend, first)
        known: set[int] = {*cached.keys.values()}
        cached.take()
        assert all(self.keys_of(cached, first))
        model = backend.model
        for _ in range(model.kv_cache_tokens // (MAX_MODEL_LEN - model.kv_block_tokens) + 2):
            self.hits(backend, self.prompt(MAX_MODEL_LEN - 1))
            stored, removed = cached.take()
            assert known.issuperset(removed)
            assert known.isdisjoint(stored)
            known = known - {*removed} | {*stored}
            assert known == {*cached.keys.values()}
        assert not any(self.keys_of(cached, first))
        if model.backend != DRY_RUN:
            # By now all that was cached before it was followed is gone.
            pool = backend._core.scheduler.kv_cache_manager.block_pool
            assert cached.keys.keys() == pool.cached_block_hash_to_block._cache.keys()
        assert self.hits(backend, first) == 0
        assert len(known) * cached.block_tokens <= model.kv_cache_tokens
        cached.watched = False


def test_a_cache_salt_does_not_change_the_output(backend):
    plain, salted = make_request(), make_request(options=GenerateOptions(cache_salt="mine"))
    outputs = run(backend, plain, salted)
    assert tokens(outputs[plain.key]) == tokens(outputs[salted.key])


def test_it_answers_as_before_after_a_sleep(backend, monkeypatch):
    if (mode := getattr(backend, "_sleep_mode", None)) is not None:
        # vLLM on the CPU has none, but goes through the same calls.
        assert not backend.sleep()
        monkeypatch.setattr(mode, "_possible", True)
    first, second = make_request(range(300, 600)), make_request(range(300, 600))
    before = run(backend, first)[first.key]
    assert backend.sleep()
    backend.wake()
    after = run(backend, second)[second.key]
    assert [output.token_ids for output in after] == [output.token_ids for output in before]
    assert after[0].facts.cached_tokens == 0
    assert backend.counts().prefix_cache_hits == 0
