"""What the KV cache will hold at its fullest, so that a request starts when it will fit. Pure.

Sequences are at different places of their growth, so they need less together than the sum of what
each needs at its end: the cache is at its fullest when one of them ends. What an answer will still
get is drawn from the lengths of earlier ones, given the length that it has (LightLLM, "Past-Future
Scheduler for LLM Serving under SLA Guarantees", ASPLOS 2025), here once for each answer and from
evenly spread quantiles. The margin for error follows the preemptions that happen.
"""

import math
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from itertools import islice

from vgate.engine.forecast.output_lengths import OutputLengths, class_of
from vgate.engine.request import Request

# The standard deviations of what is to come that are kept free. Each preemption adds to them, and
# each answer that ends takes something away, so that this share of answers is preempted.
_FIRST_CAUTION, _LEAST_CAUTION, _MOST_CAUTION = 0.5, -1.0, 4.0
_CAUTION_STEP = 0.05
_PREEMPTED_SHARE = 0.01
# An answer that ends before its limit with less than this probability is taken to reach it.
_RARELY = 0.05
# Its multiples are spread evenly over 0 to 1, however many are taken.
_GOLDEN = (math.sqrt(5) - 1) / 2
_PREFIXES_TRIED = 4


def peak(sequences: Sequence[tuple[int, int]], block_tokens: int) -> int:
    """Return the most tokens, in whole blocks, that sequences will hold together.

    Each has the tokens that it will still get, and those that it has; most to come first.
    """
    # The blocks that they have now, and how many tokens each has in its last one, in order.
    most = whole = 0
    lasts: list[int] = []
    for count, (coming, size) in enumerate(sequences, 1):
        blocks, last = divmod(size + block_tokens - 1, block_tokens)
        whole += blocks
        insort(lasts, last)
        blocks, more = divmod(coming, block_tokens)
        overflow = count - bisect_left(lasts, block_tokens - more)
        most = max(most, whole + count * blocks + overflow)
    return most * block_tokens


class KVForecast:
    """Says whether a request will fit beside those that run, and otherwise when to ask again."""

    def __init__(self, capacity: int, block_tokens: int, start_steps: int = 0) -> None:
        self._capacity = capacity
        self._start_steps = start_steps
        self._block = block_tokens
        self._common = OutputLengths()
        self._lengths: dict[str, OutputLengths] = {}
        # The running sequences, as `peak` takes them.
        self._sequences: list[tuple[int, int]] = []
        # What they would hold if they ended together, and the variance of what is to come.
        self._ends = self._variance = 0
        # By prefix, which of the requests that share it will hold it longest, and how long.
        self._holders: dict[int, tuple[Request, int]] = {}
        # By class of length, when the next such request may begin to be evenly spread.
        self._next_steps: dict[int, float] = {}
        self._place = 0.0
        self._preemptions = 0
        self._caution = _FIRST_CAUTION

    def begin(self, running: Iterable[Request]) -> None:
        """Begin a round of admissions beside the requests that run."""
        self._variance = 0
        self._holders.clear()
        self._sequences = []
        for request in sorted(running, key=self._tokens_to_come, reverse=True):
            coming = self._tokens_to_come(request)
            size = len(request.prompt) + request.generated_tokens
            if request.uncertain:
                self._variance += coming * coming
            if request.cached_tokens:
                size -= self._held_by_others(request, coming)
            self._sequences.append((coming, size))
        blocks = len(self._sequences) * self._block
        self._ends = blocks + sum([coming + size for coming, size in self._sequences])

    def excess(
        self, request: Request, reserve: int = 0, *, steps: int = 0, beside: Request | None = None
    ) -> int:
        """Return by how much a request would overfill the cache, all but `reserve` tokens of it.

        It starts in so many steps, and `beside` now.
        """
        coming, size = self._new_sequence(request)
        sequences, ends, variance = self._sequences, self._ends, self._variance
        if beside is not None:
            sequences = self._with(sequences, *(added := self._new_sequence(beside)))
            ends += sum(added) + self._block
            variance += added[0] ** 2 * beside.uncertain
        variance += coming * coming * request.uncertain
        room = self._capacity - reserve - int(self._caution * math.sqrt(variance))
        if (ends := ends + coming + size + self._block) <= room:
            # The usual case: all would fit if they ended together.
            return ends - room
        if steps:
            sequences = [(left - steps, held + steps) for left, held in sequences if left > steps]
        return peak(self._with(sequences, coming, size), self._block) - room

    def wait(self, request: Request, reserve: int, steps: int) -> int:
        """Return in how many steps, `steps` at least, a request will fit if no other one starts."""
        for end, _ in reversed(self._sequences):
            # Until one ends, it needs a token less with each step.
            while steps < end and (excess := self.excess(request, reserve, steps=steps)) > 0:
                steps = min(steps + excess, end)
            if steps < end:
                break
        return steps

    def start(self, request: Request, step: int) -> None:
        """Count a request as one that runs since this step."""
        coming, size = self._new_sequence(request)
        self._sequences = self._with(self._sequences, coming, size)
        self._ends += coming + size + self._block
        self._variance += coming * coming * request.uncertain
        alike = class_of(coming)
        began = max(self._next_steps.get(alike, 0.0), step - 1.0)
        self._next_steps[alike] = began + coming / self.most(request)

    def early(self, request: Request, step: int, beside: Request | None = None) -> int:
        """Return how many steps too early a request is to be evenly spread with others like it.

        `beside` is one of them that waits, and is to begin before it.

        Answers of one length that begin together end together, again and again, and need the cache
        for all their ends at once. Evenly spread, half as many more run at once.
        """
        if request.uncertain:
            return 0
        alike = class_of(self._tokens_to_come(request))
        if beside is not None and alike == class_of(self._tokens_to_come(beside)):
            return 1
        return max(0, math.ceil(self._next_steps.get(alike, 0.0) - step))

    def most(self, request: Request) -> float:
        """Return how many requests like this one can run at once, evenly spread."""
        coming = self._tokens_to_come(request)
        held = len(request.prompt) + (coming + self._block) / 2
        return max(1.0, (self._capacity - coming / 2) / held)

    def ended(self, request: Request) -> None:
        """Learn from a request that has ended, or was aborted."""
        sampling, generated = request.sampling, request.generated_tokens
        if generated and sampling is not None and not sampling.ignore_eos:
            cut = generated >= request.max_tokens
            self._common.add(generated, cut=cut)
            self._of(request.tenant).add(generated, cut=cut)
        self._caution = max(_LEAST_CAUTION, self._caution - _CAUTION_STEP * _PREEMPTED_SHARE)

    def usual_tokens(self) -> int:
        """Return how long an answer without a limit is on average, as far as that is known."""
        return self._common.mean()

    def preempted(self, total: int) -> None:
        """Note how many preemptions there have been since the start."""
        count, self._preemptions = total - self._preemptions, total
        self._caution = min(_MOST_CAUTION, self._caution + _CAUTION_STEP * count)

    def _tokens_to_come(self, request: Request) -> int:
        """Return in how many steps a request will end: those of its start, and one a token."""
        generated = request.generated_tokens
        if generated >= request.expected_tokens:
            self._expect(request)
        starting = generated == len(request.continued)
        return request.expected_tokens - generated + self._start_steps * starting

    def _new_sequence(self, request: Request) -> tuple[int, int]:
        """Return a request as `peak` takes it, without a prefix that others hold until its end."""
        coming, size = self._tokens_to_come(request), len(request.prompt) + request.generated_tokens
        for holder, until in islice(self._holders.values(), _PREFIXES_TRIED):
            if coming <= until and _shares_prefix(holder, request):
                return coming, size - _cached_prompt(holder)
        return coming, size

    def _with(
        self, sequences: list[tuple[int, int]], coming: int, size: int
    ) -> list[tuple[int, int]]:
        place = bisect_left(sequences, -coming, key=_less_to_come)
        return [*sequences[:place], (coming, size), *sequences[place:]]

    def _held_by_others(self, request: Request, coming: int) -> int:
        """Return how many tokens of its prefix another running request holds for longer."""
        if not request.prefix:
            request.prefix = hash(tuple(request.prompt[: request.cached_tokens]))
        if request.prefix in self._holders:
            return _cached_prompt(request)
        self._holders[request.prefix] = request, coming
        return 0

    def _expect(self, request: Request) -> None:
        """Foresee a request's length."""
        most = request.max_tokens
        if request.sampling is None or request.sampling.ignore_eos:
            request.expected_tokens = most
            return
        self._place = (self._place + _GOLDEN) % 1.0
        lengths, generated = self._of(request.tenant), request.generated_tokens
        request.expected_tokens = lengths.quantile(self._place, generated, most)
        request.uncertain = lengths.quantile(_RARELY, generated, most) < most

    def _of(self, tenant: str) -> OutputLengths:
        if (lengths := self._lengths.get(tenant)) is None:
            lengths = self._lengths[tenant] = OutputLengths(self._common)
        return lengths


def _shares_prefix(holder: Request, request: Request) -> bool:
    """Whether a request's prompt begins with what a running one had from the prefix cache."""
    count, mine, other = _cached_prompt(holder), request.prompt, holder.prompt
    return (
        len(mine) > count
        and mine[count - 1] == other[count - 1]
        and mine[0] == other[0]
        and mine[:count] == other[:count]
    )


def _cached_prompt(request: Request) -> int:
    """Return how many tokens of a prompt were cached; of a resumed request its output may be."""
    return min(request.cached_tokens, len(request.prompt))


def _less_to_come(sequence: tuple[int, int]) -> int:
    return -sequence[0]
