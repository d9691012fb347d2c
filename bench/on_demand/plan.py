"""What a run is, the instance that it needs, and what it saw."""

from pathlib import Path
from typing import Any

import msgspec

from bench.chaos.instance import Instance
from bench.swaps import Machine, Request, Simulation, clairvoyant_loads, least_loads
from vgate.config.model import Residency

_MIB = 1024 * 1024
# Many refusals would be no service, though each has its reason.
_LEAST_RIGHT = 0.95
# About what an answer of the simulated engine takes.
_ANSWER_S = 0.2


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A run.

    Attributes:
        room: How many of the models fit.
        rate: Requests per second; each comes at random, for a random model.
        min_loaded_s, max_wait_s: Of `residency`.
        directories: Of the models for vLLM; none for simulated ones.
    """

    requests: int = 2000
    models: int = 6
    room: int = 2
    rate: float = 30.0
    kills: int = 20
    seed: int = 0
    min_loaded_s: float = 2.5
    max_wait_s: float = 15.0
    deadline_s: float = 60.0
    memory_mib: int = 24
    directories: tuple[str, ...] = ()


class Move(msgspec.Struct):
    """A load or an unload: when it began and what it took, in seconds.

    Attributes:
        asked_by: The model that an unload makes room for; -1 if it is for none.
    """

    model: int
    began: float
    took_s: float
    asked_by: int = -1


class Outcome(msgspec.Struct):
    """What a run saw.

    Attributes:
        refused: Requests that were refused, by the reason.
        cut: Answers that had begun and ended with the reason: their engines were killed twice.
        problems: Wrong answers, broken ones, and those without a reason or in time.
        trace: All requests; `began` is when the server had it, and `end` when it was answered.
        loaded: The models that were loaded before it began.
        loads, unloads: Of models; one that starts again after a kill isn't loaded.
        most_engines, most_mib: The most engines at once, and memory of all at once (PSS).
    """

    plan: Plan
    right: int = 0
    refused: dict[str, int] = {}
    cut: int = 0
    problems: list[str] = []
    trace: list[Request] = []
    loaded: tuple[int, ...] = ()
    loads: list[Move] = []
    unloads: list[Move] = []
    killed: int = 0
    most_engines: int = 0
    most_mib: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether all was as it must be."""
        plan = self.plan
        enough = self.right >= _LEAST_RIGHT * len(self.trace)
        fits = self.most_engines <= plan.room and self.most_mib <= plan.room * plan.memory_mib
        return not self.problems and enough and fits

    @property
    def longest_s(self) -> float:
        """The longest time from a request to the end of its answer."""
        return max(request.end - request.arrival for request in self.trace)

    @property
    def to_room_s(self) -> float:
        """The longest time from a request until room was made for its model.

        No order of loads makes a load itself faster, so this is what a schedule is allowed.
        """
        longest = 0.0
        for load in self.loads:
            left = [u.began for u in self.unloads if u.model == load.model]
            left_at = max((began for began in left if began <= load.began), default=-1.0)
            # What came while it was unloaded may have been answered before it ended.
            waited = [r for r in self.trace if r.model == load.model and r.end > load.began]
            asked = [request.arrival for request in waited]
            asked_at = min((at for at in asked if at > left_at), default=load.began)
            makes = [u.began for u in self.unloads if u.asked_by == load.model]
            made_at = min((at for at in makes if left_at <= at <= load.began), default=load.began)
            longest = max(longest, made_at - asked_at)
        return longest

    def bounds(self) -> tuple[int, int]:
        """Return the loads of a schedule that knows the requests, and the least of any schedule."""
        machine, trace = self._recorded()
        longest_s = self.to_room_s + machine.load_s
        least = least_loads(machine, trace, longest_s)
        return clairvoyant_loads(machine, trace, longest_s), least

    def replayed(self) -> tuple[int, int]:
        """Return the loads of the policy over these requests in simulated time, and of a schedule.

        There nothing is killed, and all loads take as long, which is what the schedule knows.
        """
        machine, trace = self._recorded()
        simulation = Simulation(machine, trace)
        simulation.run()
        longest_s = max(request.wait_s for request in trace)
        return len(simulation.loads), clairvoyant_loads(machine, trace, longest_s)

    def _recorded(self) -> tuple[Machine, list[Request]]:
        """Return the machine, on which a load takes as long, after an unload, and its requests."""
        plan = self.plan
        settings = Residency(min_loaded_s=plan.min_loaded_s, max_wait_s=plan.max_wait_s)
        load_s = _mean(_took(self.loads)) + _mean(_took(self.unloads))
        machine = Machine(plan.models, plan.room, load_s, _ANSWER_S, settings, self.loaded)
        trace = [Request(request.model, request.arrival) for request in self.trace]
        return machine, sorted(trace, key=lambda request: request.arrival)


def _mean(values: list[float]) -> float:
    return sum(values) / max(1, len(values))


def _took(moves: list[Move]) -> list[float]:
    return [move.took_s for move in moves]


def _more(loads: int, known: int) -> str:
    return f"{loads / max(1, known) - 1:+.0%}"


def own_words(model: int) -> str:
    """Return what a simulated model begins its answers with."""
    return f"I am model {model}. You say: "


def start(plan: Plan, directory: Path) -> Instance:
    """Return the instance of a plan, which is started by entering it."""
    models: list[dict[str, Any]] = []
    for number in range(plan.models):
        model: dict[str, Any] = {
            "model_id": plan.directories[number] if plan.directories else "simulated",
            "served_model_name": f"model-{number}",
            "load": "on_demand",
            "memory_bytes": plan.memory_mib * _MIB,
            "max_model_len": 512,
        }
        if not plan.directories:
            template = directory / f"model-{number}.jinja"
            template.write_text(own_words(number) + "{{ messages[-1].content }}")
            model["chat_template"] = str(template)
        models.append(model)
    first, *others = models
    settings: dict[str, object] = {
        **{f"model__{name}": value for name, value in first.items()},
        "models": others,
        "residency__memory_bytes": plan.room * plan.memory_mib * _MIB,
        "residency__min_loaded_s": plan.min_loaded_s,
        "residency__max_wait_s": plan.max_wait_s,
        # All are of one key, which leaves half of a worker's room to others.
        "residency__max_waiting": 2 * plan.requests,
        "timeouts__request_s": plan.deadline_s,
        "supervision__max_restarts": 1_000_000,
        "supervision__restart_window_s": 0.5,
        "dry_run__step_ms": 2,
        "server__workers": 2,
        "security__rate_limiting__enabled": False,
    }
    return Instance(directory, settings, first["model_id"] if plan.directories else None)


def table(outcome: Outcome) -> str:
    """Return what was seen, as text."""
    plan = outcome.plan
    known, least = outcome.bounds()
    simulated, then_known = outcome.replayed()
    loads = len(outcome.loads)
    waits = [request.end - request.arrival for request in outcome.trace]
    rows: list[tuple[str, object]] = [
        ("requests", f"{len(outcome.trace)}, {plan.rate:g}/s over {plan.models} models"),
        ("engines killed", outcome.killed),
        ("answered right", outcome.right),
        *((f"refused: {why}", count) for why, count in sorted(outcome.refused.items())),
        ("cut by two kills", outcome.cut),
        ("most engines at once", f"{outcome.most_engines} of {plan.room}"),
        ("most memory, MiB", f"{outcome.most_mib:.0f} of {plan.room * plan.memory_mib}"),
        ("loads", f"{loads}, of {_mean(_took(outcome.loads)):.2f} s each"),
        ("loads of a schedule that knows all", f"{known} ({_more(loads, known)})"),
        ("loads of any schedule at least", least),
        ("both in simulated time", f"{simulated}, {then_known} ({_more(simulated, then_known)})"),
        ("longest until room was made, s", round(outcome.to_room_s, 1)),
        ("longest request, s", round(outcome.longest_s, 1)),
        ("mean, s", round(_mean(waits), 1)),
    ]
    lines = [f"{name:<40} {value}" for name, value in rows]
    return "\n".join([*lines, *(f"PROBLEM {problem}" for problem in outcome.problems[:20])])
