"""The dry-run engine's own promises: it outputs the last message, on any simulated GPU."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate.config import Config
from vgate.config.model import Model
from vgate.config.schema import Batch, DryRun
from vgate.engine.backends.base import BackendError
from vgate.engine.backends.dry_run import backend as dry_run
from vgate.engine.backends.dry_run.backend import DryRunBackend
from vgate.engine.backends.dry_run.prefix_cache import BLOCK_TOKENS, PrefixCache
from vgate.engine.backends.dry_run.sequence import Sequence
from vgate.engine.backends.dry_run.vocabulary import ASSISTANT, END, SYSTEM, USER, built_in_files
from vgate.engine.request import Request
from vgate.engine.served_files import fingerprint, read_model_files
from vgate.wire.parameters import DEFAULTS, SamplingParams

numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def slept(monkeypatch):
    """Simulated time is noted instead of being slept."""
    times: list[float] = []
    monkeypatch.setattr(dry_run.time, "sleep", times.append)
    return times


def make_backend(model_id="built-in", **settings) -> DryRunBackend:
    config = Config(
        model=Model(model_id=model_id),
        batch=Batch(max_num_seqs=64),
        dry_run=DryRun(**{"step_ms": 0, "kv_cache_tokens": 1_000_000, **settings}),
    )
    return DryRunBackend(config, lambda _phase: None)


def chat(*messages: str, **sampling) -> Request:
    """Return a request for an answer to messages, of the user and the assistant in turn."""
    prompt: list[int] = []
    for role, text in zip(itertools.cycle([USER, ASSISTANT]), messages, strict=False):
        prompt += [role, *text.encode(), END]
    prompt.append(ASSISTANT)
    chosen = SamplingParams(**{"max_tokens": 1000, **sampling}).over(DEFAULTS)
    return Request(str(next(numbers)), prompt, chosen)


def run(backend, *requests):
    for request in requests:
        backend.add(request)
    answers = {request.key: [] for request in requests}
    reasons = {}
    for _ in range(100_000):
        if not backend.has_work():
            break
        for output in backend.step():
            assert output.key not in reasons, "a token after the end"
            answers[output.key] += output.token_ids
            if output.finish_reason:
                reasons[output.key] = output.finish_reason
    assert not backend.has_work()
    return [(answers[request.key], reasons[request.key]) for request in requests]


class TestEcho:
    @pytest.mark.parametrize("text", ["Hello!", "a", "Grüße, 世界 😀", "two\n\nlines"])
    def test_the_last_message_comes_back_once(self, text):
        ((answer, reason),) = run(make_backend(), chat(text))
        assert (bytes(answer[:-1]).decode(), answer[-1], reason) == (text, END, "stop")

    def test_the_last_message_of_a_conversation(self):
        ((answer, _),) = run(make_backend(), chat("first one", "answer", "last one"))
        assert bytes(answer[:-1]) == b"last one"

    @pytest.mark.parametrize("messages", [("a much longer first message", "ok", "hi")])
    def test_also_when_earlier_messages_are_longer(self, messages):
        ((answer, _),) = run(make_backend(), chat(*messages))
        assert bytes(answer[:-1]) == messages[-1].encode()

    def test_max_tokens_cuts_it(self):
        ((answer, reason),) = run(make_backend(), chat("Hello!", max_tokens=3))
        assert (bytes(answer), reason) == (b"Hel", "length")

    def test_ignore_eos_repeats_it_to_the_limit(self):
        ((answer, reason),) = run(make_backend(), chat("abc", max_tokens=8, ignore_eos=True))
        assert (bytes(answer), reason) == (b"abcabcab", "length")

    def test_min_tokens_repeats_it_without_the_end(self):
        ((answer, reason),) = run(make_backend(), chat("abc", min_tokens=5, max_tokens=20))
        assert (bytes(answer[:-1]), answer[-1], reason) == (b"abcabc", END, "stop")

    def test_a_stop_token_ends_it(self):
        stop = ord("l")
        ((answer, reason),) = run(make_backend(), chat("Hello", stop_token_ids=[stop]))
        assert (bytes(answer), reason) == (b"Hel", "stop")

    def test_a_stop_token_counts_although_eos_is_ignored(self):
        request = chat("abc", max_tokens=9, ignore_eos=True, stop_token_ids=[ord("c")])
        ((answer, reason),) = run(make_backend(), request)
        assert (bytes(answer), reason) == (b"abc", "stop")

    def test_min_tokens_holds_even_if_every_token_stops(self):
        request = chat("ab", min_tokens=5, max_tokens=20, stop_token_ids=[ord("a"), ord("b")])
        ((answer, _),) = run(make_backend(), request)
        assert len(answer) >= 5

    def test_min_tokens_up_to_the_limit(self):
        ((answer, reason),) = run(make_backend(), chat("abc", min_tokens=10, max_tokens=10))
        assert (len(answer), reason) == (10, "length")

    @pytest.mark.parametrize(
        "prompt", [[ASSISTANT], [END], [7], [SYSTEM, END, ASSISTANT], [USER, END, USER, END]]
    )
    def test_any_prompt_is_answered(self, prompt):
        sampling = SamplingParams(max_tokens=5).over(DEFAULTS)
        request = Request(str(next(numbers)), prompt, sampling)
        ((answer, _),) = run(make_backend(), request)
        assert 1 <= len(answer) <= 5

    @given(st.lists(st.integers(0, 300), min_size=1, max_size=30), st.integers(1, 20))
    def test_any_prompt_ends_in_time(self, prompt, max_tokens):
        sampling = SamplingParams(max_tokens=max_tokens).over(DEFAULTS)
        request = Request(str(next(numbers)), prompt, sampling)
        ((answer, reason),) = run(make_backend(), request)
        assert 1 <= len(answer) <= max_tokens
        assert reason == "stop" or len(answer) == max_tokens


class TestTiming:
    def test_a_step_takes_its_time_and_prefill_takes_time_per_token(self, slept):
        backend = make_backend(step_ms=10, prefill_tokens_per_s=1000)
        backend.add(chat("x" * 97, max_tokens=2, ignore_eos=True))
        backend.step()
        backend.step()
        assert slept == [pytest.approx(0.010 + 0.100), pytest.approx(0.010)]

    def test_a_long_prompt_is_prefilled_in_chunks(self, slept):
        backend = make_backend(prefill_tokens_per_s=1000)
        backend.add(chat("x" * 4997, max_tokens=1))
        assert [len(list(backend.step())) for _ in range(3)] == [0, 0, 1]
        assert slept == [pytest.approx(t) for t in (2.048, 2.048, 0.904)]

    def test_decoding_continues_during_a_long_prefill(self):
        backend = make_backend()
        short = chat("ab", max_tokens=50, ignore_eos=True)
        backend.add(short)
        backend.step()
        backend.add(chat("x" * 9000, max_tokens=1))
        assert [output.key for output in backend.step()] == [short.key]


class TestMemory:
    def test_usage_follows_the_tokens(self):
        backend = make_backend(kv_cache_tokens=100)
        backend.add(chat("x" * 47, max_tokens=20, ignore_eos=True))
        backend.step()
        assert backend.kv_cache_usage() == pytest.approx(0.51)
        backend.step()
        assert backend.kv_cache_usage() == pytest.approx(0.52)

    def test_an_overfull_cache_preempts_without_changing_outputs(self):
        requests = [chat(f"message {n}", max_tokens=60, ignore_eos=True) for n in range(8)]
        again = [chat(f"message {n}", max_tokens=60, ignore_eos=True) for n in range(8)]
        roomy, tight = make_backend(), make_backend(kv_cache_tokens=150)
        preempted = []
        step = tight.step

        def watched():
            outputs = step()
            preempted.append(len(tight._preempted))
            return outputs

        tight.step = watched
        assert run(tight, *requests) == run(roomy, *again)
        assert max(preempted) > 0

    def test_a_preempted_sequence_is_prefilled_again(self, slept):
        def prefill_s(capacity):
            slept.clear()
            # What is cached isn't prefilled again.
            backend = make_backend(
                kv_cache_tokens=capacity, prefill_tokens_per_s=1, prefix_cache=False
            )
            run(backend, *(chat("x" * 15, max_tokens=40, ignore_eos=True) for _ in range(3)))
            return sum(slept)

        prompts = 3 * (15 + 3)
        assert prefill_s(1000) == pytest.approx(prompts)
        assert prefill_s(70) > prompts + 18

    def test_a_sequence_larger_than_the_cache_runs_alone(self):
        backend = make_backend(kv_cache_tokens=10)
        answers = run(backend, *(chat("x" * 30, max_tokens=10) for _ in range(3)))
        assert [(len(answer), reason) for answer, reason in answers] == [(10, "length")] * 3

    def test_a_preempted_sequence_can_be_aborted(self):
        backend = make_backend(kv_cache_tokens=40)
        requests = [chat("x" * 15, max_tokens=50, ignore_eos=True) for _ in range(3)]
        for request in requests:
            backend.add(request)
        while not backend._preempted:
            backend.step()
        backend.abort([s.request.key for s in backend._preempted])
        assert not backend._preempted
        backend.abort([request.key for request in requests])
        assert not backend.has_work()

    @given(
        st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=8),
        st.integers(1, 120),
    )
    def test_any_load_completes_on_any_cache(self, loads, capacity):
        requests = [chat("x" * size, max_tokens=n, ignore_eos=True) for size, n in loads]
        answers = run(make_backend(kv_cache_tokens=capacity), *requests)
        assert [len(answer) for answer, _ in answers] == [n for _, n in loads]

    @given(
        st.lists(st.tuples(st.integers(1, 60), st.integers(1, 40)), min_size=1, max_size=8),
        st.integers(50, 300),
        st.integers(1, 3),
    )
    def test_usage_is_what_runs_at_any_time(self, loads, capacity, tokens_per_step):
        backend = make_backend(
            kv_cache_tokens=capacity, prefix_cache=False, tokens_per_step=tokens_per_step
        )
        running = {}
        for number, (size, most) in enumerate(loads):
            request = chat("x" * size, max_tokens=most, ignore_eos=True)
            backend.add(request)
            running[request.key] = len(request.prompt)
            if number % 3 == 2:
                # Some are stopped in the middle of it.
                backend.abort([request.key])
                del running[request.key]
            for output in backend.step():
                running[output.key] += len(output.token_ids)
                if output.finish_reason:
                    del running[output.key]
            preempted = {sequence.request.key for sequence in backend._preempted}
            tokens = sum(count for key, count in running.items() if key not in preempted)
            assert backend.kv_cache_usage() == pytest.approx(min(1, tokens / capacity))


class TestStepCost:
    def test_tokens_inside_a_block_come_in_columns(self):
        backend = make_backend()
        requests = [chat("abc", max_tokens=100, ignore_eos=True) for _ in range(3)]
        for request in requests:
            backend.add(request)
        others = [len(backend.step().others) for _ in range(60)]
        # The first token, and those that complete a block.
        assert others[0] == 3
        assert sum(others) <= 3 * (1 + 60 // BLOCK_TOKENS + 1)
        outputs = backend.step()
        assert outputs.keys == [request.key for request in requests]
        assert len(outputs.tokens) == 3

    def test_a_sequence_is_looked_at_once_for_a_block(self, monkeypatch):
        looked = []

        def counted(owner, name):
            real = getattr(owner, name)
            monkeypatch.setattr(owner, name, lambda *a: looked.append(name) or real(*a))

        for owner, name in ((Sequence, "next"), (PrefixCache, "fill"), (PrefixCache, "look_up")):
            counted(owner, name)
        run(make_backend(), chat("abc", max_tokens=10 * BLOCK_TOKENS, ignore_eos=True))
        assert looked.count("look_up") == 2
        # Also with the first token and the last one, and with the prompt.
        assert looked.count("next") <= 12
        assert looked.count("fill") <= 13

    @given(st.integers(1, 60), st.integers(1, 80), st.integers(0, 20), st.booleans())
    def test_what_is_chosen_ahead_is_what_would_be_chosen_one_by_one(
        self, size, most, least, ignore_eos
    ):
        sampling = {"max_tokens": most, "min_tokens": min(least, most), "ignore_eos": ignore_eos}
        text = "".join(chr(97 + number % 26) for number in range(size))
        # Several tokens in a step are chosen one by one.
        backends = make_backend(), make_backend(tokens_per_step=2)
        ahead, one_by_one = (run(backend, chat(text, **sampling)) for backend in backends)
        assert ahead == one_by_one


class TestPrefixCache:
    def prefill_s(self, backend, slept, *requests) -> list[float]:
        """Return the seconds of prefill of requests that run one after the other."""
        times = []
        for request in requests:
            slept.clear()
            run(backend, request)
            times.append(round(sum(slept)))
        return times

    def make(self, **settings):
        return make_backend(prefill_tokens_per_s=1, **settings)

    @staticmethod
    def told(tokens, max_tokens=1) -> Request:
        request = chat("", max_tokens=max_tokens, ignore_eos=True)
        request.prompt = [*tokens]
        return request

    def test_what_is_cached_costs_no_prefill(self, slept):
        backend, prompt = self.make(), range(100, 200)
        other = [*prompt[:50], *range(50)]
        prompts = (prompt, prompt, other, prompt[:96], prompt[:97])
        times = self.prefill_s(backend, slept, *map(self.told, prompts))
        # Whole blocks of 16, and at least one token.
        assert times == [100, 100 - 96, 100 - 48, 96 - 80, 1]
        assert backend.counts()[:3] == (0, 100 + 100 + 100 + 96 + 97, 96 + 48 + 80 + 96)

    def test_it_can_be_switched_off(self, slept):
        backend, prompt = self.make(prefix_cache=False), range(100, 200)
        assert self.prefill_s(backend, slept, *map(self.told, (prompt, prompt))) == [100, 100]
        assert backend.counts()[:3] == (0, 0, 0)
        assert backend.follow_blocks() is None

    def test_the_least_recently_used_makes_place_its_end_first(self, slept):
        backend = self.make(kv_cache_tokens=10 * 16)
        one, two, three = (range(n * 1000, n * 1000 + 64) for n in range(1, 4))
        times = self.prefill_s(backend, slept, *map(self.told, (one, two, one, three, two)))
        assert times[:4] == [64, 64, 16, 64]
        # Ten blocks hold two prompts and a half: the second one's end is gone, its beginning isn't.
        assert 16 < times[4] < 64

    def test_running_sequences_share_blocks(self):
        backend = make_backend(kv_cache_tokens=1600)
        requests = [self.told(range(100, 200), max_tokens=20) for _ in range(10)]
        for request in requests:
            backend.add(request)
        backend.step()
        assert backend.kv_cache_usage() == pytest.approx((96 + 10 * 5) / 1600)
        backend.abort([request.key for request in requests])
        assert backend.kv_cache_usage() == 0


class TestModel:
    def test_without_files_it_uses_the_built_in_vocabulary(self):
        backend = make_backend()
        assert backend.files == built_in_files()
        assert backend.model.fingerprint == ""

    def test_a_directory_gives_its_special_tokens(self, tiny_model_dir):
        backend = make_backend(str(tiny_model_dir))
        assert backend.files == read_model_files(tiny_model_dir.resolve())
        assert backend.model.fingerprint == fingerprint(tiny_model_dir)
        assert backend._vocabulary.eos
        assert backend._vocabulary.eos <= backend._vocabulary.special
        assert backend.model.vocab_size == 2048

    @pytest.mark.parametrize("content", ["", "[]", "{}", '{"added_tokens": [1]}', "\xff"])
    def test_a_broken_tokenizer_is_an_error(self, tmp_path, content):
        (tmp_path / "tokenizer.json").write_text(content, encoding="latin-1")
        with pytest.raises(BackendError, match="cannot read the tokenizer") as caught:
            make_backend(str(tmp_path))
        assert caught.value.permanent


def strikes(backend: DryRunBackend, steps: int) -> list[int]:
    """Return the steps that fail."""
    failed = []
    for step in range(steps):
        try:
            backend.step()
        except (MemoryError, RuntimeError):
            failed.append(step)
    return failed


@pytest.mark.parametrize("fault", ["memory", "crash", None])
def test_it_fails_on_purpose_in_every_nth_step_with_enough_sequences(fault):
    backend = make_backend(fault=fault, fault_every=3, fault_batch=2)
    backend.add(chat("one", ignore_eos=True))
    assert strikes(backend, 7) == []
    backend.add(chat("two", ignore_eos=True))
    assert strikes(backend, 7) == ([2, 5] if fault else [])


def test_it_hangs_on_purpose(monkeypatch):
    class StillThereError(Exception):
        pass

    def sleep(seconds):
        if seconds > 1000:
            raise StillThereError

    monkeypatch.setattr(dry_run.time, "sleep", sleep)
    backend = make_backend(fault="hang", fault_every=2)
    backend.add(chat("one", ignore_eos=True))
    backend.step()
    with pytest.raises(StillThereError):
        backend.step()
