"""The requests of a run, what answers say, and what engines take meanwhile."""

import asyncio
import os
import random
import re
import signal
import time
from contextlib import suppress
from typing import Any

from bench.chaos import answers
from bench.chaos.answers import ServerError, WrongError
from bench.chaos.instance import Instance
from bench.compare.service import descendants
from bench.load.asking import asked
from bench.load.connection import Pool
from bench.load.processes import memory_kib
from bench.on_demand.plan import Move, Outcome, Plan, own_words
from bench.swaps import Request, random_requests

_PATH = "/v1/chat/completions"
_SAMPLE_S = 0.1
# How much later than its deadline an answer may come on a busy machine.
_SLACK_S = 5.0
_MOVED = re.compile(
    r"model (loaded|unloaded) model=model-(\d+) "
    r'reason="?(?:model-(\d+) is asked for)?.*\bseconds=([\d.]+)'
)
# A request that ran in two engines when they died goes on in no third one.
_MOST_KILLS = 2
QUESTIONS = ("Who are you?", "What is it?", "Tell me a story.")


class CutError(WrongError):
    """An answer had begun, and ended with the error of one whose engine was lost."""


class Load:
    """Sends the requests of a plan to an instance, or those of `trace`; kills engines meanwhile.

    Attributes:
        known: Each model's answers, by the questions; where there are none, real models are asked.
    """

    def __init__(self, plan: Plan, instance: Instance, trace: list[Request] | None = None) -> None:
        self.outcome = Outcome(plan)
        self.outcome.trace = trace or random_requests(
            plan.requests, plan.models, plan.rate, plan.seed
        )
        self._plan = plan
        self._instance = instance
        self._pool = Pool(instance.target, keepalive=True)
        self._chance = random.Random(plan.seed)
        self._killed_at: list[float] = []
        self.known: dict[tuple[int, str], str] = {}
        self._began = time.monotonic()

    async def run(self) -> Outcome:
        """Send all, and wait for the answers."""
        plan, outcome = self._plan, self.outcome
        watching = asyncio.ensure_future(self._watch())
        if plan.directories and not self.known:
            await self._learn()
        outcome.loaded = self._loaded()
        span_s = outcome.trace[-1].arrival
        self._began = time.monotonic()
        killing = asyncio.ensure_future(self._kill(span_s))
        async with asyncio.TaskGroup() as group:
            for number, request in enumerate(outcome.trace):
                await asyncio.sleep(request.arrival - self._now)
                request.arrival = self._now
                group.create_task(self._one(number, request))
        killing.cancel()
        watching.cancel()
        self._pool.close()
        outcome.loads, outcome.unloads = self._moves("loaded"), self._moves("unloaded")
        if not self._instance.alive:
            outcome.problems.append(f"the server ended: {self._instance.log_tail()}")
        return outcome

    @property
    def _now(self) -> float:
        return time.monotonic() - self._began

    def _moves(self, how: str) -> list[Move]:
        """Return what was loaded, or unloaded, since it began."""
        moves = []
        for at, line in self._instance.log.copy():
            if (match := _MOVED.search(line)) and match[1] == how:
                began = at - self._began - float(match[4])
                moves.append(Move(int(match[2]), began, float(match[4]), int(match[3] or -1)))
        return [move for move in moves if move.began + move.took_s >= 0]

    def _loaded(self) -> tuple[int, ...]:
        """Return which models are loaded."""
        found = filter(None, (_MOVED.search(line) for _, line in self._instance.log.copy()))
        last = {int(match[2]): match[1] for match in found}
        return tuple(model for model, how in last.items() if how == "loaded")

    async def _learn(self) -> None:
        """Ask each model each question; no two of them may say the same."""
        for model in range(self._plan.models):
            for question in QUESTIONS:
                self.known[model, question] = await self._said(model, question, stream=False)
        for question in QUESTIONS:
            said = [self.known[model, question] for model in range(self._plan.models)]
            if len({*said}) < len(said):
                self.outcome.problems.append(f"models say the same: {said}")

    async def _one(self, number: int, request: Request) -> None:
        if self._plan.directories:
            text = self._chance.choice(QUESTIONS)
            known = self.known[request.model, text]
        else:
            text = f"{number} {self._chance.getrandbits(60):x}"
            known = own_words(request.model) + text
        outcome, problem, cut = self.outcome, "", False
        try:
            said = await self._said(request.model, text, stream=self._chance.random() < 0.5)
            if said == known:
                outcome.right += 1
            else:
                problem = f"{said!r} instead of {known!r}"
        except ServerError as error:
            if str(error).partition(": ")[2]:
                why = str(error)[:100]
                outcome.refused[why] = outcome.refused.get(why, 0) + 1
            else:
                problem = f"refused without a reason: {error}"
        except (WrongError, OSError, TimeoutError) as error:
            cut = isinstance(error, CutError)
            problem = f"{type(error).__name__}: {error}"
        request.began, request.end = request.arrival, self._now
        taken_s = request.end - request.arrival
        kills = sum(request.began <= at <= request.end for at in self._killed_at)
        if cut and kills >= _MOST_KILLS:
            outcome.cut, problem = outcome.cut + 1, ""
        if taken_s > self._plan.deadline_s + _SLACK_S:
            problem = problem or "it came after its deadline"
        if problem:
            what = f"model-{request.model} after {taken_s:.1f} s, {kills} kills meanwhile: "
            outcome.problems.append(what + problem)

    async def _said(self, model: int, text: str, *, stream: bool) -> str:
        """Return an answer's text.

        Raises:
            ServerError: It was refused.
            WrongError: It isn't complete; a `CutError` if its engine was lost.
            OSError, TimeoutError: The connection broke; there was no answer.
        """
        body: dict[str, Any] = {"model": f"model-{model}", "max_tokens": 64, "temperature": 0}
        body |= {"messages": [{"role": "user", "content": text}], "stream": stream}
        answer = await asked(
            self._pool,
            _PATH,
            body,
            key=self._instance.key,
            limit_s=self._plan.deadline_s + 2 * _SLACK_S,
        )
        try:
            said = answers.said(_PATH, answer.body, stream=stream and answer.error is None)
        except ServerError as error:
            begun = b'"content":"' in answer.body.replace(b'"content":""', b"")
            if begun and error.code != "deadline_exceeded":
                kind = CutError if error.code == "engine_unavailable" else WrongError
                raise kind(f"cut after it had begun: {error}") from None
            raise
        found: str = said["choices"][0]["text"]
        return found

    async def _kill(self, span_s: float) -> None:
        """Kill engines at random moments, whatever they do then."""
        moments = sorted(self._chance.uniform(0, span_s) for _ in range(self._plan.kills))
        for moment in moments:
            await asyncio.sleep(moment - self._now)
            pids = self._instance.pids("engine")
            with suppress(ProcessLookupError, IndexError):  # there may be none at this moment
                os.kill(self._chance.choice(pids), signal.SIGKILL)
                self._killed_at.append(self._now)
                self.outcome.killed += 1

    async def _watch(self) -> None:
        """Keep the most engines, and the most memory that they took together."""
        outcome = self.outcome
        while True:
            engines = self._instance.pids("engine")
            processes = {each for pid in engines for each in (pid, *descendants(pid))}
            outcome.most_engines = max(outcome.most_engines, len(engines))
            outcome.most_mib = max(outcome.most_mib, sum(map(_pss_mib, processes)))
            await asyncio.sleep(_SAMPLE_S)


def _pss_mib(pid: int) -> float:
    """Return a process's memory, of which it has only a share where others have it too."""
    with suppress(OSError):
        return memory_kib(pid)["Pss"] / 1024
    return 0.0
