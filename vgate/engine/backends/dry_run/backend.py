"""The dry-run backend: continuous batching on a simulated GPU, for CI, demos and benchmarks.

A step takes time, prefill is chunked and takes time per token, and overfilling the KV cache
preempts. The output is what the script in `dry_run.script` says, or else the conversation's last
message, repeated while `ignore_eos` or `min_tokens` demand more; with structured output, a text
that doesn't conform is replaced by a minimal one that does. A LoRA adapter changes nothing.
"""

import time
from collections import deque

from vgate.config import Config
from vgate.config.runtime import DRY_RUN
from vgate.config.schema import Batch
from vgate.engine.backends.base import (
    ALL,
    Allowance,
    BackendCounts,
    Facts,
    Output,
    Outputs,
    ReportPhase,
)
from vgate.engine.backends.checks import check, unknown_adapter
from vgate.engine.backends.dry_run.embedding import check_dimensions, classify, embed
from vgate.engine.backends.dry_run.fault import Fault
from vgate.engine.backends.dry_run.prefix_cache import BLOCK_TOKENS, PrefixCache
from vgate.engine.backends.dry_run.script import Rule, constrained, load_script
from vgate.engine.backends.dry_run.sequence import Rules, Sequence, logprobs_at
from vgate.engine.backends.dry_run.vocabulary import Vocabulary
from vgate.engine.blocks.cached import CachedBlocks
from vgate.engine.request import Request, RequestError
from vgate.engine.served_files import describe_model, fingerprint
from vgate.wire.logprobs import Logprobs
from vgate.wire.messages import FinishReason
from vgate.wire.parameters import Classes, SamplingParams
from vgate.wire.stats import Gpu

# Prompt tokens that one step may prefill, as vLLM's max_num_batched_tokens.
_MAX_PREFILL_TOKENS = 2048
# For `model.max_model_len: auto`.
_AUTO_CONTEXT = 2048
# The kernel makes every sleep last at least 50 us (prctl(2), PR_SET_TIMERSLACK), even one of 0.
_SHORTEST_PAUSE_S = 1e-6


class DryRunBackend:
    """Simulates a model of any task. Its timing and capacity are `config.dry_run`."""

    def __init__(
        self, config: Config, report_phase: ReportPhase, allowance: Allowance = ALL
    ) -> None:
        report_phase("starting the dry-run engine")
        self.chosen = ""
        self._step_s = config.dry_run.step_ms / 1000
        self._prefill_s = 1 / config.dry_run.prefill_tokens_per_s
        self._capacity = config.dry_run.kv_cache_tokens
        self._tokens_per_step = config.dry_run.tokens_per_step
        self._adapters = config.model.adapter_names
        self._script = load_script(config.dry_run.script)
        self._vocabulary = vocabulary = Vocabulary(config.model.model_id)
        self._fault = Fault(config.dry_run)
        self._texts: dict[str, Request] = {}
        # The running sequences. Prompts are computed in order, so all that decode came first.
        self._decoding: dict[str, Sequence] = {}
        self._prefilling: dict[str, Sequence] = {}
        # The tokens of their prompts and outputs: no step sums over them.
        self._running_tokens = 0
        self._preempted: deque[Sequence] = deque()
        self._preemptions = 0
        self._asleep = False
        self._cache = PrefixCache(enabled=config.dry_run.prefix_cache)
        self.files = vocabulary.files
        context, classifies = config.model.max_model_len, config.model.task == "classify"
        self.model = describe_model(
            config,
            self.files,
            max_model_len=_AUTO_CONTEXT if context == "auto" else context,
            max_num_seqs=_sequences(config.batch, allowance),
            kv_cache_tokens=self._capacity,
            backend=DRY_RUN,
            kv_block_tokens=BLOCK_TOKENS,
            vocab_size=vocabulary.size,
            fingerprint=fingerprint(vocabulary.directory) if vocabulary.directory else "",
            classes=Classes(vocabulary.labels, token_types=True) if classifies else None,
        )

    def add(self, request: Request) -> None:
        """Start a sequence, or queue a text to embed, if its options are supported."""
        assert not self._asleep
        options = request.options
        if request.sampling is None:
            check_dimensions(request.dimensions)
            self._texts[request.key] = request
            return
        check(request.sampling, options, self.model, len(request.prompt))
        if options.adapter and options.adapter not in self._adapters:
            raise unknown_adapter(options.adapter, self._adapters)
        sequence = self._sequence(request, request.sampling)
        for _ in request.continued:
            sequence.next()
        self._start(sequence)

    def abort(self, keys: list[str]) -> None:
        """Stop sequences and drop texts."""
        for key in keys:
            self._texts.pop(key, None)
            sequence = self._decoding.pop(key, None) or self._prefilling.pop(key, None)
            if sequence is not None:
                self._leave(sequence)
        gone = set(keys)
        self._preempted = deque(s for s in self._preempted if s.request.key not in gone)

    def has_work(self) -> bool:
        """Whether there is a sequence or a text."""
        return bool(self._texts or self._decoding or self._prefilling or self._preempted)

    def step(self) -> Outputs:
        """Simulate one step.

        It embeds or classifies all texts, prefills new sequences within the budget, and decodes all
        others.
        """
        self._fault.step(self._running(), self._kv_tokens)
        assert not self._asleep
        self._resume_preempted()
        for sequence in self._prefilling.values():
            if not sequence.computing:
                self._cache.look_up(sequence)
        self._cache.evict(self._preempt_overfull())
        texts, self._texts = self._texts, {}
        prefilled = self._prefill() + sum(len(request.prompt) for request in texts.values())
        pause_s = self._step_s + prefilled * self._prefill_s
        if pause_s >= _SHORTEST_PAUSE_S:
            time.sleep(pause_s)
        embedded = [
            Output(key, [], None, None, self._vector(request)) for key, request in texts.items()
        ]
        outputs = self._decode()
        outputs.others[:0] = embedded
        return outputs

    def _vector(self, request: Request) -> bytes:
        if request.classify is None:
            return embed(request.prompt, request.dimensions)
        return classify(request.prompt, request.classify, len(self._vocabulary.labels))

    def kv_cache_usage(self) -> float:
        """Return the fraction of the simulated KV cache in use."""
        return min(1.0, self._kv_tokens() / self._capacity)

    def counts(self) -> BackendCounts:
        """Return the preemptions, and what was looked up in the prefix cache and found."""
        return BackendCounts(self._preemptions, self._cache.queries, self._cache.hits)

    def forget(self) -> None:
        """Forget what ran before."""
        self._preemptions = self._cache.queries = self._cache.hits = 0
        self._cache.evict(0)

    def follow_blocks(self) -> CachedBlocks | None:
        """Return the prefix cache's blocks."""
        return self._cache.follow()

    def prefill_tokens_per_s(self) -> float:
        """Return the simulated speed."""
        return 1 / self._prefill_s

    def gpus(self) -> list[Gpu]:
        """Return none."""
        return []

    def sleep(self) -> bool:
        """Take nothing more until `wake`, as without a KV cache."""
        assert not self.has_work()
        self.forget()
        self._asleep = True
        return True

    def wake(self) -> None:
        """Go on."""
        self._asleep = False

    def shutdown(self) -> None:
        """Do nothing: there is nothing to free."""

    def _prefill(self) -> int:
        budget = _MAX_PREFILL_TOKENS
        while budget and self._prefilling:
            key, sequence = next(iter(self._prefilling.items()))
            if not sequence.computing:
                # One before it in this step may have computed what it needs.
                self._cache.look_up(sequence)
                sequence.computing = True
            chunk = min(sequence.prefill_tokens - sequence.prefilled, budget)
            sequence.prefilled += chunk
            budget -= chunk
            self._cache.fill(sequence, sequence.prefilled)
            if sequence.prefilled >= sequence.prefill_tokens:
                self._decoding[key] = self._prefilling.pop(key)
        return _MAX_PREFILL_TOKENS - budget

    def _decode(self) -> Outputs:
        keys: list[str] = []
        tokens: list[int] = []
        others: list[Sequence] = []
        # This loop runs once for every token; for most of them nothing else does.
        for key, sequence in self._decoding.items():
            if ahead := sequence.ahead:
                keys.append(key)
                tokens.append(ahead.pop())
            else:
                others.append(sequence)
        self._running_tokens += len(tokens)
        return Outputs(keys, tokens, [self._next(sequence) for sequence in others])

    def _next(self, sequence: Sequence) -> Output:
        """Return a sequence's output, and do what need not be done at every token."""
        request, before = sequence.request, sequence.emitted
        tokens: list[int] = []
        finish_reason: FinishReason | None = None
        while finish_reason is None and len(tokens) < self._tokens_per_step:
            token, finish_reason = sequence.next()
            tokens.append(token)
        self._running_tokens += len(tokens)
        # The last token's keys and values are computed by the next step.
        self._cache.fill(sequence, sequence.prefill_tokens - 1)
        facts, first = None, before == len(request.continued)
        if first:
            self._cache.count(sequence)
        if finish_reason or first:
            facts = Facts(sequence.cached_tokens if first else 0, sequence.preemptions)
        if finish_reason:
            del self._decoding[request.key]
            self._leave(sequence)
        elif self._tokens_per_step == 1 and request.options.logprobs is None:
            # The token after these fills a block.
            sequence.look_ahead(-sequence.prefill_tokens % BLOCK_TOKENS)
        logprobs = self._logprobs(request, tokens, before)
        return Output(request.key, tokens, finish_reason, facts, None, None, *logprobs)

    def _logprobs(
        self, request: Request, tokens: list[int], emitted: int
    ) -> tuple[list[Logprobs] | None, list[Logprobs | None] | None]:
        """Return new tokens' log probabilities, and the prompt's with the first token."""
        options, prompt, size = request.options, request.prompt, self._vocabulary.size
        logprobs: list[Logprobs] | None = None
        prompt_logprobs: list[Logprobs | None] | None = None
        if options.logprobs is not None:
            places = enumerate(tokens, start=len(prompt) + emitted)
            logprobs = [logprobs_at(i, t, options.logprobs, size) for i, t in places]
        if (count := options.prompt_logprobs) is not None and emitted == 0:
            rest = enumerate(prompt[1:], start=1)
            prompt_logprobs = [None, *(logprobs_at(i, t, count, size) for i, t in rest)]
        return logprobs, prompt_logprobs

    def _start(self, sequence: Sequence) -> None:
        """Let a sequence run, as the newest one."""
        self._prefilling[sequence.request.key] = sequence
        self._running_tokens += sequence.prefill_tokens

    def _leave(self, sequence: Sequence) -> None:
        """Give back what a sequence holds that runs no more."""
        self._running_tokens -= sequence.prefill_tokens
        self._cache.release(sequence)

    def _running(self) -> int:
        return len(self._decoding) + len(self._prefilling)

    def _kv_tokens(self) -> int:
        return self._running_tokens - self._cache.shared_tokens

    def _preempt_overfull(self) -> int:
        """Preempt the newest sequences until the rest fits, as vLLM does; one always runs.

        Returns:
            The tokens that have room beside those that run.
        """
        while (room := self._capacity - self._kv_tokens()) < 0 and self._running() > 1:
            _, sequence = (self._prefilling or self._decoding).popitem()
            self._leave(sequence)
            sequence.prefilled, sequence.computing = 0, False
            sequence.preemptions += 1
            self._preempted.appendleft(sequence)
            self._preemptions += 1
        return room

    def _resume_preempted(self) -> None:
        while self._preempted:
            more = self._preempted[0].prefill_tokens
            if self._running() and self._kv_tokens() + more > self._capacity:
                return
            self._start(self._preempted.popleft())

    def _sequence(self, request: Request, sampling: SamplingParams) -> Sequence:
        """Choose the output of a request: the script's or the last message, then the end token."""
        options, vocabulary = request.options, self._vocabulary
        stops = frozenset(sampling.stop_token_ids or ())
        if not sampling.ignore_eos:
            stops |= vocabulary.eos
        rules = None
        if sampling.logit_bias or sampling.allowed_token_ids or options.bad_words:
            rules = Rules(sampling, options.bad_words, vocabulary.size)
        reply = vocabulary.last_message(request.prompt)
        rule = self._rule(request.prompt, reply)
        if options.structured is not None:
            text = vocabulary.decode(reply)
            # A template may write the role in a line before the message.
            said = [text, text.partition("\n")[2]] if rule is None else rule.constrained()
            reply = vocabulary.encode(constrained(options.structured, said, rule))
            _check_reply(sampling, [*reply, vocabulary.end], rules)
        elif rule is not None:
            reply = vocabulary.encode(rule.written(harmony=vocabulary.harmony))
        elif sampling.ignore_eos:
            return Sequence(request, list(reply), stops, rules)
        return Sequence(request, [*reply, vocabulary.end], stops, rules)

    def _rule(self, prompt: list[int], last: list[int]) -> Rule | None:
        """Return the script's rule for a prompt and its last message."""
        if self._script is None:
            return None
        return self._script.rule_for(self._vocabulary.decode(last), self._vocabulary.decode(prompt))


def _sequences(batch: Batch, allowance: Allowance) -> int:
    """Return the most sequences at once, as the vLLM backend would choose."""
    automatic = batch.max_num_seqs == "auto"
    return max(1, batch.sequences >> (allowance.halvings if automatic else 0))


def _check_reply(sampling: SamplingParams, reply: list[int], rules: Rules | None) -> None:
    """Check that the other parameters allow the text that was made for a constraint."""
    longest = len(reply) - 1
    if (sampling.min_tokens or 0) > longest or (rules is not None and not rules.allows_all(reply)):
        reason = "another parameter forbids the dry-run engine's only output for it"
        raise RequestError("invalid_value", reason, "constraint")
