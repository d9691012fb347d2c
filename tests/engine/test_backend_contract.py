"""What the loop relies on, for every backend: the simulated one and the real one.

The vLLM lane builds its engine once, in this process, on the tiny model.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from vgate.config import Config
from vgate.config.schema import Batch, DryRun, Model
from vgate.engine.backends import REGISTRY
from vgate.engine.backends.base import Backend, Output
from vgate.engine.request import Request
from vgate.errors import VGateError
from vgate.wire.sampling import DEFAULTS, FIELDS, SamplingParams

MAX_MODEL_LEN = 512
MAX_NUM_SEQS = 8
MAX_STEPS = 5000

numbers = itertools.count(1)
pytestmark = pytest.mark.timeout(300)


@pytest.fixture(
    scope="session",
    params=[
        "dry_run",
        # Importing vLLM warns of much that is none of ours.
        pytest.param("vllm", marks=[pytest.mark.vllm, pytest.mark.filterwarnings("ignore")]),
    ],
)
def engine(request: pytest.FixtureRequest, tiny_model_dir: Path) -> Iterator[Backend]:
    """One engine a process: vLLM does not start a second one."""
    config = Config(
        model=Model(
            model_id=str(tiny_model_dir),
            served_model_name=["tiny", "alias"],
            max_model_len=MAX_MODEL_LEN,
        ),
        batch=Batch(max_batch_size=MAX_NUM_SEQS),
        dry_run=DryRun(step_ms=0, prefill_tokens_per_s=1e9, kv_cache_tokens=100_000),
    )
    environment = dict(os.environ)
    backend = REGISTRY[request.param](config, lambda _phase: None)
    yield backend
    backend.shutdown()
    # vLLM sets variables that change every later child process.
    os.environ.clear()
    os.environ.update(environment)


@pytest.fixture
def backend(engine: Backend) -> Iterator[Backend]:
    """The engine, idle before and after the test."""
    assert not engine.has_work()
    yield engine
    run(engine)
    assert not engine.has_work()


def make_request(prompt: Iterable[int] = range(100, 140), **sampling: object) -> Request:
    chosen = SamplingParams(**{"max_tokens": 8, "temperature": 0.0, **sampling})
    return Request(str(next(numbers)), list(prompt), chosen.over(DEFAULTS))


def run(backend: Backend, *requests: Request, steps: int | None = None) -> dict[str, list[Output]]:
    """Add requests and step until nothing is left to do, or so many times."""
    outputs: dict[str, list[Output]] = {request.key: [] for request in requests}
    for request in requests:
        backend.add(request)
    number = 0
    while backend.has_work() and number != steps:
        number += 1
        assert number < MAX_STEPS, "the backend never came to rest"
        for output in backend.step() or ():
            outputs.setdefault(output.key, []).append(output)
    return outputs


def tokens(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def assert_well_ended(outputs: list[Output], reason: str) -> None:
    assert [output.finish_reason for output in outputs[:-1]] == [None] * (len(outputs) - 1)
    assert outputs[-1].finish_reason == reason
    assert all(output.error is None for output in outputs)


class TestModel:
    def test_it_describes_what_was_configured(self, backend, tiny_model_dir):
        model = backend.model
        assert model.names == ["tiny", "alias"]
        assert model.max_model_len == MAX_MODEL_LEN
        assert model.max_num_seqs == MAX_NUM_SEQS
        assert model.kv_cache_tokens >= MAX_MODEL_LEN
        assert model.created > 0
        assert model.directory is not None
        assert Path(model.directory).samefile(tiny_model_dir)

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
            assert type(output.cached_tokens) is int
            assert 0 <= output.cached_tokens <= len(request.prompt)

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

    def test_min_tokens_puts_the_end_off(self, backend):
        free = make_request(max_tokens=30, ignore_eos=True)
        stop = tokens(run(backend, free)[free.key])[0]
        request = make_request(max_tokens=30, min_tokens=15, stop_token_ids=[stop], ignore_eos=True)
        outputs = run(backend, request)[request.key]
        assert len(tokens(outputs)) >= 15
        assert stop not in tokens(outputs)[:15]

    def test_min_tokens_holds_whatever_may_stop(self, backend):
        free = make_request(max_tokens=30, ignore_eos=True)
        said = tokens(run(backend, free)[free.key])
        stops = sorted(set(said))
        request = make_request(max_tokens=30, min_tokens=15, stop_token_ids=stops)
        outputs = run(backend, request)[request.key]
        assert len(tokens(outputs)) >= 15

    def test_a_prompt_that_fills_the_context_but_for_one(self, backend):
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

    def test_a_newcomer_joins_while_others_run(self, backend):
        first = make_request(max_tokens=40, ignore_eos=True)
        run(backend, first, steps=5)
        second = make_request(max_tokens=5, ignore_eos=True)
        outputs = run(backend, second)
        assert len(tokens(outputs[second.key])) == 5
        assert len(tokens(outputs[first.key])) >= 30

    def test_a_key_may_be_used_again_after_its_end(self, backend):
        request = make_request(ignore_eos=True)
        for _ in range(2):
            assert len(tokens(run(backend, request)[request.key])) == 8


class TestAbort:
    def test_nothing_follows_for_the_aborted_and_others_go_on(self, backend):
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
    def test_it_is_a_share_and_returns_to_nothing(self, backend):
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
}


class TestParameters:
    """Whatever passes our bounds must not break a step: it would end everybody's answers."""

    def test_all_are_here(self):
        assert set(EXTREMES) == set(FIELDS)

    @pytest.mark.parametrize(
        ("name", "value"),
        [(name, value) for name, values in EXTREMES.items() for value in values],
        ids=lambda part: str(part)[:30],
    )
    def test_an_extreme_is_run_or_refused_and_harms_nobody(self, backend, name, value):
        neighbour = make_request(max_tokens=12, ignore_eos=True)
        run(backend, neighbour, steps=2)
        request = make_request(**{"temperature": 1.0, name: value})
        try:
            outputs = run(backend, request, steps=500)
        except VGateError:
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
        with contextlib.suppress(VGateError):
            backend.add(request)
        outputs = run(backend)
        assert_well_ended(outputs[neighbour.key], "length")
