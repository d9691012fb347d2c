"""How frontends take the places of others, without any process."""

from collections.abc import Callable

import pytest

from vgate.config import Config, Runtime
from vgate.config.schema import Server, Timeouts
from vgate.launcher import frontends as module
from vgate.launcher.frontends import FrontendChild, Frontends, HandOverError
from vgate.wire.control import FrontendBeat, HandOver

_LONG_S = 61.0


class Simulated(FrontendChild):
    """A frontend without a process."""

    pids = 0
    ended: str | None = None
    killed: str | None = None
    number: int | None = None

    @property
    def pid(self) -> int | None:
        return self.number

    def start(self, now: float) -> None:
        self._reset(now)
        self.restarts += 1
        Simulated.pids += 1
        self.number = Simulated.pids

    def died(self, now: float) -> str | None:
        if self.number is None or self.ended is None:
            return None
        cause, self.ended, self.number, self.ready = self.ended, None, None, False
        return cause

    def kill(self, cause: str | None = None) -> None:
        self.killed = cause


class Instance:
    """Frontends at work, and what happened to them."""

    def __init__(self, workers: int = 2) -> None:
        config = Config(server=Server(workers=workers), timeouts=Timeouts(request_s=10))
        self.runtime = Runtime(config=config, backend="dry_run", run_dir="/r", engines=[])
        self.left: list[bytes] = []
        self.outcomes: list[str | None] = []
        self.now = 1.0
        self.all = Frontends(self.runtime, range(10, 10 + workers), self._send)
        for child in self.all.serving:
            child.start(self.now)
            self.beat(child)

    def _send(self, peer: bytes, message: object) -> None:
        assert isinstance(message, HandOver)
        self.left.append(peer)

    def beat(
        self,
        child: FrontendChild,
        not_ready: str | None = None,
        problem: str | None = None,
        *,
        refused: bool = False,
    ) -> None:
        self.now += 0.25
        beat = FrontendBeat(child.pid or 0, not_ready, 0, False, problem, refused)
        assert self.all.hear(child.name.encode(), beat, self.now) is child

    def advance(self, later_s: float = 0.1) -> None:
        self.now += later_s
        self.all.advance(self.now)

    def replace(self) -> None:
        self.all.replace(self.runtime, self.outcomes.append)
        self.advance()

    def replaced(self) -> None:
        """Carry out a whole hand-over."""
        self.replace()
        while self.all.handing_over:
            self.beat(self.all.arriving[-1])
            self.advance()

    def names(self) -> list[list[str]]:
        groups = self.all.serving, self.all.arriving, self.all.leaving
        return [[child.name for child in group] for group in groups]


@pytest.fixture
def instance(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Instance]:
    monkeypatch.setattr(module, "FrontendChild", Simulated)
    return Instance


def test_the_places_change_hands_when_all_new_ones_are_ready(instance):
    it = instance()
    it.replace()
    assert it.names() == [["frontend-1", "frontend-2"], ["frontend-3"], []]
    it.advance()
    assert it.names()[1] == ["frontend-3"], "the next one waits for it"
    it.beat(it.all.arriving[0])
    it.advance()
    assert it.names()[1] == ["frontend-3", "frontend-4"]
    assert it.left == []
    it.beat(it.all.arriving[1])
    it.advance()
    assert it.names() == [["frontend-3", "frontend-4"], [], ["frontend-1", "frontend-2"]]
    assert it.left == [b"frontend-1", b"frontend-2"]
    assert it.outcomes == [None]
    assert [child._passed for child in it.all.serving] == [(10,), (11,)]


def test_numbers_are_used_again_when_their_processes_have_ended(instance):
    it = instance(1)
    it.replaced()
    it.replaced()
    assert it.names() == [["frontend-3"], [], ["frontend-1", "frontend-2"]]
    it.all.leaving[0].ended = "exit status 0"
    it.advance()
    it.replaced()
    assert it.names() == [["frontend-1"], [], ["frontend-2", "frontend-3"]]


@pytest.mark.parametrize("place", [0, 1])
def test_one_that_dies_leaves_everything_as_it_was(instance, place):
    it = instance()
    it.replace()
    if place:
        it.beat(it.all.arriving[0])
        it.advance()
    it.all.arriving[place].ended = "killed by SIGKILL"
    it.advance()
    (outcome,) = it.outcomes
    assert f"frontend-{3 + place} ended (killed by SIGKILL)" in outcome
    assert it.names() == [["frontend-1", "frontend-2"], [], ["frontend-3"][:place]]
    # The other one may have accepted connections.
    assert it.left == [b"frontend-3"][:place]


def test_one_that_cannot_serve_says_why(instance):
    it = instance(1)
    it.replace()
    it.beat(it.all.arriving[0], "not yet", "the chat template is broken")
    it.advance()
    assert it.outcomes == ["the chat template is broken"]


def test_one_that_the_engine_refuses_is_given_up(instance):
    it = instance(1)
    it.replace()
    it.beat(it.all.arriving[0], "the engine speaks protocol 8, not 9", refused=True)
    it.advance()
    assert it.outcomes == ["the engine speaks protocol 8, not 9"]
    assert it.names()[0] == ["frontend-1"]


def test_one_that_does_not_become_ready_is_given_up(instance):
    it = instance(1)
    it.replace()
    it.beat(it.all.arriving[0], "the tokenizer is being loaded")
    it.advance()
    assert it.outcomes == []
    it.advance(_LONG_S)
    (outcome,) = it.outcomes
    assert outcome.endswith("the tokenizer is being loaded")
    assert it.names()[0] == ["frontend-1"]


def test_one_that_never_reports_is_told_to_leave_if_it_ever_does(instance):
    it = instance(1)
    it.replace()
    it.advance(_LONG_S)
    assert "has not reported anything" in it.outcomes[0]
    (late,) = it.all.leaving
    assert it.left == []
    it.beat(late)
    it.beat(late)
    assert it.left == [b"frontend-2"]


def test_it_need_not_be_ready_while_the_earlier_ones_are_not(instance):
    it = instance(1)
    it.beat(it.all.serving[0], "the engine is starting")
    it.replace()
    it.beat(it.all.arriving[0], "the engine is starting")
    it.advance()
    assert it.outcomes == [None]


def test_a_place_whose_frontend_has_died_is_taken(instance):
    it = instance(1)
    it.all.serving[0].ended = "exit status 1"
    assert it.all.serving[0].died(it.now)
    it.replaced()
    assert it.names() == [["frontend-2"], [], []]
    assert it.left == []


def test_one_that_does_not_end_is_killed(instance):
    it = instance(1)
    it.replaced()
    (leaving,) = it.all.leaving
    it.advance(10)
    assert leaving.killed is None, "its requests may still run"
    it.advance(100)
    assert leaving.killed == "it did not end"


def test_there_is_a_bound_of_those_that_leave(instance):
    it = instance(1)
    for _ in range(7):
        it.replaced()
    with pytest.raises(HandOverError, match="9 frontends would run at once, and at most 8 may"):
        it.replace()
    it.all.leaving[3].ended = "exit status 0"
    it.advance()
    it.replaced()
    assert it.outcomes == [None] * 8
