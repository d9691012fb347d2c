"""The requests that need most of a model: its whole context, and its batch with a full KV cache.

Pure. Their tokens are random, so that nothing of them is in the prefix cache.
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from vgate.engine.request import Request
from vgate.engine.tenants import reserved_seqs
from vgate.wire.messages import ModelInfo
from vgate.wire.model_files import TOKENIZER, ModelFiles
from vgate.wire.parameters import (
    DEFAULTS,
    Classify,
    GenerateOptions,
    SamplingParams,
    StructuredOutput,
)

# Tokens that each sequence generates at least, and the most log probabilities that OpenAI has.
ANSWER_TOKENS = 4
_LOGPROBS = 20
# While the last prompts of a batch are computed the first ones generate, a token in each step. Most
# models read so many tokens in one; where they are fewer, a sequence may go on for a while.
_PROMPT_TOKENS_PER_STEP = 2048
_MORE_STEPS = 4
# More texts than this fill a step of any model that embeds or classifies.
_MOST_TEXTS_TOKENS = 65_536
# What needs most memory beside the logits: they are sorted, copied and masked.
_SAMPLING = SamplingParams(
    temperature=1.0,
    top_p=0.95,
    top_k=50,
    min_p=0.01,
    presence_penalty=0.1,
    frequency_penalty=0.1,
    repetition_penalty=1.1,
    ignore_eos=True,
).over(DEFAULTS)
# Prompts whose speed is not measured, and one with which it is.
_SHORT_TOKENS, _PROBE_TOKENS = 64, 512
# vLLM computes the log probabilities of at most 1,024 tokens of prompts at once. Without a GPU they
# take about as long as the prompt, and are computed in smaller pieces.
_SCORED_TOKENS, _SCORED_S = 1100, 1.0
_JSON = StructuredOutput("json_object")


class Stage(NamedTuple):
    """Requests that run at once, what they are for people, and the tokens of their prompts."""

    name: str
    requests: list[Request]
    tokens: int


class Planner:
    """Makes the requests for a model.

    Args:
        model: What the engine says of it.
        files: Its text files: special tokens, which may stand for an image, are left out.
    """

    def __init__(self, model: ModelInfo, files: ModelFiles) -> None:
        self._model = model
        special = _special_tokens(files)
        self._tokens = [n for n in range(model.vocab_size or 256) if n not in special]
        self._random = random.Random(0)  # noqa: S311 - they only have to differ
        self._last = 0

    @property
    def context_tokens(self) -> int:
        """The longest prompt."""
        return self._model.max_model_len - (ANSWER_TOKENS if self._generates else 0)

    @property
    def batch_tokens(self) -> int:
        """The prompts' tokens of a full batch."""
        return sum(self._lengths(self._model.kv_cache_tokens))

    def kinds(self) -> Stage:
        """Return a short prompt of each kind, for which vLLM makes tables when the first comes."""
        length = min(_SHORT_TOKENS, self.context_tokens)
        requests = [self._request(length)]
        if self._generates:
            chosen = self._tokens[:_SHORT_TOKENS]
            bias = dict.fromkeys(chosen, 1.0)
            named = self._request(length, GenerateOptions(bad_words=[chosen[:2]]))
            named.sampling = self._sampling(length, allowed_token_ids=chosen, logit_bias=bias)
            # A constraint's masks are as large for one as for all.
            constrained = self._request(length, GenerateOptions(structured=_JSON))
            constrained.sampling = self._sampling(length, ignore_eos=False)
            requests += [named, constrained]
        return self._stage("measuring the speed", requests)

    def probe(self) -> Stage:
        """Return a prompt from which the speed is read."""
        length = min(_PROBE_TOKENS, self.context_tokens)
        return self._stage("measuring the speed", [self._request(length)])

    def context(self, tokens: int, tokens_per_s: float) -> Stage:
        """Return a prompt of so many tokens, and one with the log probabilities of its own."""
        requests = [self._request(tokens)]
        if self._generates and self._model.max_logprobs:
            most = min(_SCORED_TOKENS, self.context_tokens)
            scored = max(1, min(most, int(tokens_per_s * _SCORED_S)))
            options = GenerateOptions(prompt_logprobs=min(_LOGPROBS, self._model.max_logprobs))
            requests.append(self._request(scored, options))
        return self._stage("filling the context", requests)

    def batch(self, tokens: int) -> Stage:
        """Return a full batch that takes so many tokens of the KV cache when all have begun."""
        options = GenerateOptions(logprobs=min(_LOGPROBS, self._model.max_logprobs))
        requests = [self._request(length, options) for length in self._lengths(tokens)]
        return self._stage("filling the batch", requests)

    @property
    def _generates(self) -> bool:
        return self._model.task == "generate"

    def _lengths(self, tokens: int) -> Sequence[int]:
        """Return the lengths of the prompts of a batch."""
        sequences = self._model.max_num_seqs + reserved_seqs(self._model.max_num_seqs)
        if not self._generates:
            count = max(1, min(tokens, _MOST_TEXTS_TOKENS) // self._model.max_model_len)
            return [self._model.max_model_len] * min(count, sequences)
        each = max(2, tokens // sequences)
        room = min(each // 2, self._answer_tokens(tokens))
        return [min(each - room, self.context_tokens)] * sequences

    @staticmethod
    def _answer_tokens(tokens: int) -> int:
        """Return how many tokens the first sequence generates until the last one has begun."""
        return ANSWER_TOKENS + tokens // _PROMPT_TOKENS_PER_STEP

    def _request(self, length: int, options: GenerateOptions | None = None) -> Request:
        self._last += 1
        prompt = self._random.choices(self._tokens, k=max(1, length))
        request = Request(f"fill-{self._last}", prompt, None)
        if self._model.task == "classify":
            request.classify = Classify()
        if self._generates:
            request.sampling = self._sampling(len(prompt))
            request.options = options or GenerateOptions()
        return request

    def _sampling(self, length: int, **changed: Any) -> SamplingParams:
        room = self._model.max_model_len - length
        answer = _MORE_STEPS * self._answer_tokens(self._model.kv_cache_tokens)
        return msgspec.structs.replace(_SAMPLING, max_tokens=min(room, answer), **changed)

    @staticmethod
    def _stage(name: str, requests: list[Request]) -> Stage:
        return Stage(name, requests, sum(len(request.prompt) for request in requests))


class _AddedToken(msgspec.Struct):
    id: int


class _Tokenizer(msgspec.Struct):
    added_tokens: list[_AddedToken] = []


def _special_tokens(files: ModelFiles) -> set[int]:
    try:
        found = msgspec.json.decode(files.contents.get(TOKENIZER, b"{}"), type=_Tokenizer)
    except msgspec.DecodeError:
        return set()
    return {token.id for token in found.added_tokens}
