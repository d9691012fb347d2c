"""What an engine promises is filled once before it is ready, and remembered."""

import itertools
import re
from pathlib import Path

import pytest

from vgate.config import Config, Runtime, local_engines
from vgate.config.model import Model
from vgate.config.schema import Batch, DryRun, Server, Supervision
from vgate.engine import memory
from vgate.engine.backends.base import BackendCounts, BackendError, Output
from vgate.engine.backends.dry_run.backend import DryRunBackend
from vgate.engine.fill import once
from vgate.engine.fill.filling import Filling
from vgate.engine.fill.once import Filled, fill_once
from vgate.engine.fill.plan import Planner
from vgate.engine.memory import Memory
from vgate.engine.tenants import reserved_seqs
from vgate.wire.messages import ModelInfo
from vgate.wire.model_files import ModelFiles


def facts(**changed) -> ModelInfo:
    given = {
        "names": ["m"],
        "files": [],
        "max_model_len": 4096,
        "max_num_seqs": 32,
        "kv_cache_tokens": 65_536,
        "created": 0,
        "backend": "real",
        "vocab_size": 1000,
        **changed,
    }
    return ModelInfo(**given)


NO_FILES = ModelFiles("m", {})


class Device:
    """A backend whose clock is its work: a prompt is read at so many tokens a second."""

    def __init__(self, tokens_per_s=1e6, chunk=2048, breaks_at=10**9, **model) -> None:
        self.model, self.files = facts(**model), NO_FILES
        self.now = 0.0
        self.longest = self.most = self.most_at_once = 0
        self.forgot = False
        self._pace, self._chunk, self._breaks_at = tokens_per_s, chunk, breaks_at
        # What is left of each prompt, and what is in the KV cache.
        self._left, self._held = {}, {}
        self._requests = {}

    def add(self, request):
        assert request.key not in self._left
        self._left[request.key], self._held[request.key] = len(request.prompt), 0
        self._requests[request.key] = request

    def abort(self, keys):
        for key in keys:
            self._left.pop(key, None)
            self._held.pop(key, None)

    def has_work(self):
        return bool(self._left)

    def step(self):
        budget, outputs = self._chunk, []
        places = self.model.max_num_seqs + reserved_seqs(self.model.max_num_seqs)
        for key in itertools.islice(self._left, places):
            part = min(self._left[key], budget)
            budget -= part
            self._left[key] -= part
            self._held[key] += part
            if not self._left[key]:
                self._held[key] += 1
                most = len(self._requests[key].prompt) + self._requests[key].max_tokens
                ended = "length" if self._held[key] >= most else None
                outputs.append(Output(key, [1], ended, None))
        self.now += 0.001 + (self._chunk - budget) / self._pace
        held = sum(self._held.values())
        self.most, self.most_at_once = max(self.most, held), max(self.most_at_once, len(outputs))
        if held >= self._breaks_at:
            raise MemoryError("CUDA out of memory")
        for key in self._left:
            if not self._left[key]:
                self.longest = max(self.longest, len(self._requests[key].prompt))
        self.abort([output.key for output in outputs if output.finish_reason])
        return outputs

    def kv_cache_usage(self):
        return sum(self._held.values()) / self.model.kv_cache_tokens

    def counts(self):
        return BackendCounts()

    def forget(self):
        self.forgot = True


def filling(device, limit_s=100.0, report=lambda *_: None) -> Filling:
    found = Filling(device, report, limit_s, clock=lambda: device.now)
    found.run()
    return found


@pytest.mark.parametrize(
    ("context", "sequences", "kv_cache"),
    [(4096, 32, 65_536), (32_768, 256, 40_000), (128, 8, 100_000), (8192, 1, 8192), (64, 256, 512)],
)
def test_the_whole_context_and_the_full_batch_run(context, sequences, kv_cache):
    device = Device(max_model_len=context, max_num_seqs=sequences, kv_cache_tokens=kv_cache)
    found = filling(device)
    assert found.whole
    assert device.longest == found.longest == context - 4
    places = Planner(device.model, NO_FILES)
    assert device.most_at_once == len(places.batch(kv_cache).requests) >= sequences
    possible = min(kv_cache, device.most_at_once * context)
    assert 0.8 * possible <= found.tokens <= device.most
    assert device.forgot


def test_nothing_is_in_the_prefix_cache_and_no_token_is_special():
    content = b'{"added_tokens": [{"id": 3, "content": "<image>"}, {"id": 5}], "model": {}}'
    planner = Planner(facts(vocab_size=64), ModelFiles("m", {"tokenizer.json": content}))
    stages = [planner.context(planner.context_tokens, 1e6), planner.batch(planner.batch_tokens)]
    prompts = [tuple(request.prompt) for stage in stages for request in stage.requests]
    assert len({prompt[:16] for prompt in prompts}) == len(prompts)
    assert {*itertools.chain(*prompts)} == {*range(64)} - {3, 5}
    broken = Planner(facts(vocab_size=8), ModelFiles("m", {"tokenizer.json": b"{"}))
    assert {*broken.context(200, 1.0).requests[0].prompt} == {*range(8)}


def test_requests_ask_for_what_needs_most_memory():
    planner = Planner(facts(max_logprobs=5), NO_FILES)
    for request in planner.batch(planner.batch_tokens).requests:
        assert request.options.logprobs == 5
        assert (request.sampling.top_k, request.sampling.ignore_eos) == (50, True)
        assert request.sampling.repetition_penalty != 1 != request.sampling.presence_penalty
    for pace, expected in ((1e5, 1100), (200, 200), (0.1, 1)):
        whole, scored = planner.context(4000, pace).requests
        assert (len(whole.prompt), len(scored.prompt)) == (4000, expected)
        assert scored.options.prompt_logprobs == 5
    _, named, constrained = planner.kinds().requests
    assert named.sampling.allowed_token_ids
    assert named.sampling.logit_bias
    assert named.options.bad_words
    assert constrained.options.structured.kind == "json_object"
    assert not constrained.sampling.ignore_eos
    without = Planner(facts(max_logprobs=0), NO_FILES)
    assert len(without.context(100, 1e5).requests) == 1


@pytest.mark.parametrize("task", ["embed", "classify"])
def test_texts_to_embed_or_classify_fill_the_largest_step(task):
    planner = Planner(facts(task=task, max_model_len=512, kv_cache_tokens=10**6), NO_FILES)
    requests = planner.batch(10**6).requests
    assert {len(request.prompt) for request in requests} == {512}
    assert len(requests) == 36  # as many as may run at once
    assert all(request.sampling is None for request in requests)
    assert {request.classify is None for request in requests} == {task == "embed"}
    assert planner.context_tokens == 512


def test_where_it_would_take_too_long_less_is_filled():
    device = Device(tokens_per_s=100, max_model_len=32_768)
    reports = []
    found = filling(device, 120.0, lambda *report: reports.append(report))
    assert not found.whole
    assert 1000 < found.longest < 32_768
    assert device.now < 240
    assert device.forgot
    assert {phase for phase, _, _ in reports} == {
        "measuring the speed",
        "filling the context",
        "filling the batch",
    }
    done = [done for phase, done, _ in reports if phase == "filling the context"]
    assert done == sorted(done)
    assert all(done <= total for _, done, total in reports)


def test_the_slowest_step_is_known_also_where_it_had_no_time():
    """A processor reads a prompt in one step, which must not be taken for a hang."""
    cpu = {"chunk": 10**9, "max_model_len": 32_768, "max_num_seqs": 4, "kv_cache_tokens": 40_000}
    whole = filling(Device(tokens_per_s=1000, **cpu), 1000.0)
    assert whole.whole
    part = filling(Device(tokens_per_s=1000, **cpu), 10.0)
    assert not part.whole
    for found in (whole, part):
        assert 33 < found.slowest_step_s < 45
    parts = filling(Device(tokens_per_s=1000, **{**cpu, "chunk": 1000}), 1000.0)
    assert parts.slowest_step_s == pytest.approx(1, rel=0.2)


class Machine:
    """An engine's directories, and its memory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        (directory / "run" / "engines").mkdir(parents=True)
        self.phases = []

    def start(self, device, *, limit_s=100.0, **model) -> Filled:
        """Start with a device; return what is known of it, and keep the phases."""
        config = Config(
            model=Model(model_id="m", **model),
            server=Server(state_dir=str(self._directory / "state")),
            supervision=Supervision(fill_timeout_s=limit_s),
        )
        run_dir = str(self._directory / "run")
        engines = local_engines(config, run_dir)
        runtime = Runtime(config=config, backend="x", run_dir=run_dir, engines=engines)
        self.memory = Memory(runtime, 0)
        self.phases = []
        return fill_once(device, self.memory, lambda *report: self.phases.append(report[0]))

    def filled(self, device, **settings) -> bool:
        """Whether a start fills the device."""
        self.start(device, **settings)
        return bool(self.phases)


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_it_costs_once(machine):
    assert machine.filled(Device())
    assert not machine.filled(Device())
    # The KV cache is what the GPU has left.
    assert not machine.filled(Device(kv_cache_tokens=66_000))
    assert not machine.filled(Device(kv_cache_tokens=30_000, max_model_len=2048, max_num_seqs=16))
    assert machine.filled(Device(), fill="always")
    assert not machine.filled(Device(kv_cache_tokens=10**6), fill="never")
    for more in ({"kv_cache_tokens": 70_000}, {"max_model_len": 8192}, {"max_num_seqs": 33}):
        assert machine.filled(Device(**more)), more
        assert not machine.filled(Device(**more)), more


def test_what_decides_about_memory_is_filled_anew(machine, monkeypatch, tmp_path):
    assert machine.filled(Device())
    assert machine.filled(Device(fingerprint="other weights"))
    assert machine.filled(Device(), engine_args={"enforce_eager": True})
    assert machine.filled(Device(), dtype="float16")
    assert machine.filled(Device(), kv_cache_dtype="fp8")
    assert machine.filled(Device(), cuda_graphs="all")
    driver = tmp_path / "version"
    monkeypatch.setattr(memory, "_DRIVER", driver)
    for version in ("580.65", "590.1"):
        driver.write_text(version)
        assert machine.filled(Device())
        assert not machine.filled(Device())
    monkeypatch.setattr(memory, "_version", lambda package: f"{package} 9.9")
    assert machine.filled(Device())


def test_the_simulated_engine_is_filled_only_if_that_is_asked_for(machine):
    assert not machine.filled(Device(backend="dry_run"))
    assert machine.filled(Device(backend="dry_run"), fill="always")


def test_a_fill_that_had_too_little_time_says_so_each_time(machine, monkeypatch):
    device = Device(tokens_per_s=1000)
    monkeypatch.setattr(once, "Filling", lambda *a: Filling(*a, clock=lambda: device.now))
    told = machine.start(device, limit_s=10)
    assert "supervision.fill_timeout_s" in told.summary
    assert machine.start(device, limit_s=10) == told
    assert not machine.phases
    assert machine.start(device, limit_s=1000).summary == ""
    assert machine.phases


def test_too_little_memory_is_said_with_numbers(machine):
    with pytest.raises(BackendError) as caught:
        machine.start(Device(breaks_at=21_000))
    assert caught.value.lacks == "memory"
    assert re.search(r"out of memory with 2\d,\d{3} tokens .* of 65,536", str(caught.value))
    assert "lower model.max_model_len" in str(caught.value)
    assert machine.filled(Device())


def test_another_failure_is_none_of_its_business(machine):
    device = Device()
    device.forget = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        machine.start(device)
    assert machine.memory.learned.reductions == 0


def test_what_can_not_be_remembered_is_said(machine, tmp_path, caplog):
    (tmp_path / "state").write_text("")
    assert machine.filled(Device())
    assert "server.state_dir" in caplog.text


def test_the_simulated_engine_remembers_nothing_of_it():
    config = Config(
        batch=Batch(max_num_seqs=8),
        dry_run=DryRun(step_ms=0, prefill_tokens_per_s=1e9, kv_cache_tokens=9000),
    )
    backend = DryRunBackend(config, lambda *_: None)
    found = Filling(backend, lambda *_: None, 60)
    found.run()
    assert found.whole
    assert found.tokens > 8000
    assert backend.counts() == BackendCounts()
    assert backend.kv_cache_usage() == 0
    assert not backend.has_work()
    assert not backend._cache._holders
