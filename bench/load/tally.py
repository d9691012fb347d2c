"""The totals of a run, and the stricter checks of each answer."""

import msgspec

from bench.load.answer import CompletionAnswer, StreamAnswer
from bench.load.histogram import Histogram
from bench.load.options import Options

CHECK_USAGE = "check_usage"
CHECK_SAME = "check_same"
CHECK_ECHO = "check_echo"
CHECK_CHUNKS = "check_chunks"

_ROLE = "user\n"


class ErrorCount(msgspec.Struct):
    """How often a kind of error occurred, and the message of the first one."""

    count: int
    first: str


class Tally:
    """Counts and times. Gaps count as they occur, everything else when an answer has ended."""

    def __init__(self) -> None:
        self.ttft, self.tpot, self.itl, self.e2e = (Histogram() for _ in range(4))
        self.lag = Histogram()  # from when a request was due to when it was sent
        self.sent = 0
        self.completed = 0
        self.failed = 0
        self.interrupted = 0
        self.without_usage = 0
        self.chunks = 0
        self.complete_chunks = 0
        self.prompt_tokens = 0
        self.output_tokens = 0
        self.errors: dict[str, ErrorCount] = {}
        self.statuses: dict[int, int] = {}

    @property
    def in_flight(self) -> int:
        """How many requests have neither ended nor been given up."""
        return self.sent - self.completed - self.failed - self.interrupted

    @property
    def delivered_tokens(self) -> int:
        """Tokens of all answers; those of unfinished ones by their chunks, of the mean size."""
        if not self.complete_chunks:
            return self.output_tokens
        return round(self.output_tokens * self.chunks / self.complete_chunks)

    def interrupt(self, answer: CompletionAnswer) -> None:
        """Count a request that was given up because the run was stopped."""
        self.interrupted += 1
        self.chunks += answer.chunks

    def add(self, answer: CompletionAnswer) -> None:
        """Count an answer that has ended."""
        self.chunks += answer.chunks
        if answer.status:
            self.statuses[answer.status] = self.statuses.get(answer.status, 0) + 1
        if answer.error is not None:
            self.failed += 1
            known = self.errors.setdefault(answer.error, ErrorCount(0, answer.detail))
            known.count += 1
            return
        self.completed += 1
        self.complete_chunks += answer.chunks
        if answer.usage is not None:
            tokens = answer.usage.completion_tokens
            self.prompt_tokens += answer.usage.prompt_tokens
        else:
            tokens = answer.chunks
            self.without_usage += 1
        self.output_tokens += tokens
        self.e2e.add(answer.ended - answer.started)
        if answer.first:
            self.ttft.add(answer.first - answer.started)
            if tokens > 1:
                self.tpot.add((answer.ended - answer.first) / (tokens - 1))


class Checks:
    """Makes the answers of a run, and applies stricter checks to complete ones."""

    def __init__(self, options: Options) -> None:
        self._body = options.body
        self._check = options.check
        self._reference: tuple[str, ...] | None = None

    @property
    def need_prompt(self) -> bool:
        """Whether `apply` has to be given the prompt."""
        return self._check.echo

    def new_answer(self, started: float, gaps: Histogram) -> CompletionAnswer:
        """Return an empty answer, which keeps its text only if that will be compared."""
        text: dict[int, list[str]] | None = {} if self._check.same or self._check.echo else None
        if self._body.stream:
            return StreamAnswer(started, self._body.choices, text, gaps)
        return CompletionAnswer(started, self._body.choices, text)

    def apply(self, answer: CompletionAnswer, max_tokens: int, prompt: str | None = None) -> None:
        """Fail the answer if it is complete but does not satisfy the checks."""
        if answer.error is not None:
            return
        if self._check.usage:
            self._check_usage(answer, max_tokens)
        if self._check.same:
            self._check_same(answer)
        if self._check.echo and prompt is not None:
            self._check_echo(answer, prompt)
        if self._check.chunks is not None:
            self._check_chunks(answer, self._check.chunks * self._body.choices)

    def _check_usage(self, answer: CompletionAnswer, max_tokens: int) -> None:
        if answer.usage is None:
            answer.fail(CHECK_USAGE, "the answer has no usage")
        elif self._body.ignore_eos:
            expected = max_tokens * self._body.choices
            got = answer.usage.completion_tokens
            if got != expected:
                answer.fail(CHECK_USAGE, f"{got} completion tokens instead of {expected}")

    def _check_same(self, answer: CompletionAnswer) -> None:
        text = answer.digest()
        if self._reference is None:
            self._reference = text
        elif text != self._reference:
            answer.fail(CHECK_SAME, "the text differs from the first answer's")

    def _check_echo(self, answer: CompletionAnswer, prompt: str) -> None:
        for text in answer.digest():
            # In some chat templates nothing but text stands between a message and its role.
            units = (prompt, f"{_ROLE}{prompt}")
            if not text or not any(_repeats(text, unit) for unit in units):
                answer.fail(CHECK_ECHO, f"not the prompt, repeated: {text[:60]!r}")

    def _check_chunks(self, answer: CompletionAnswer, expected: int) -> None:
        if answer.chunks != expected:
            answer.fail(CHECK_CHUNKS, f"{answer.chunks} chunks with content, not {expected}")


def _repeats(text: str, unit: str) -> bool:
    return (unit * (len(text) // len(unit) + 1)).startswith(text)
