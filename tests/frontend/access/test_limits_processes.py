"""The limits over real processes, and when one is killed at any moment."""

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.frontend.access import limit_processes
from tests.frontend.access.limit_processes import admitted, now
from vgate.frontend.access.limiter import KeyLimits, LocalLimiter
from vgate.frontend.access.limiter import file as file_module

S = 1_000_000_000
ROOT = Path(__file__).parents[3]
PROGRAM = Path(limit_processes.__file__)
NOW_NS = 1_000 * S


@pytest.fixture
def play(tmp_path):
    def run(scenario):
        command = [sys.executable, str(PROGRAM), scenario, str(tmp_path / "limits")]
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_a_burst_of_eight_processes_gets_exactly_the_limit(play):
    assert play("burst") == {"admitted": 100}


def test_fifty_keys_at_once_get_exactly_their_limits(play):
    assert play("keys") == {"admitted": list(range(51))}


def test_concurrency_is_never_exceeded(play):
    result = play("concurrency")
    assert result["most_at_once"] <= 3
    assert result["admitted"] > 0
    assert result["left"] == 0


def test_killed_processes_leave_exact_counts_and_no_lock(play):
    result = play("kill")
    # A process that is killed may not have written down its last step, which was taken.
    assert abs(result["counted"] - result["known"]) <= limit_processes.KILLS
    assert result["running"] == 0
    assert result["in_the_end"] == limit_processes.KILL_LIMIT
    assert result["recounts"] > 0, "no process was killed inside the critical section"


def test_places_of_a_killed_process_are_free_at_once(play):
    result = play("release")
    assert result["alive"] == [False, 3]
    assert result["first"] == 0
    assert result["places"] == [True, True, True, False]


class Killed(BaseException):
    """Stands for SIGKILL: nothing is stored after it, and the lock is given up."""


class Dying:
    """The shared words, of which only the first so many stores are made."""

    def __init__(self, words, left):
        self.words = words
        self.left = left

    def __len__(self):
        return len(self.words)

    def __getitem__(self, index):
        return self.words[index]

    def __setitem__(self, index, value):
        if self.left[0] == 0:
            raise Killed
        self.left[0] -= 1
        self.words[index] = value


LIMITS = KeyLimits(requests=6, window_s=10, tokens_per_minute=100, concurrent=6)
STEPS = {
    "reserve": lambda limiter, _: limiter.reserve("k", LIMITS, 10),
    "reserve in a larger log": lambda limiter, _: limiter.reserve("k", LIMITS, 10),
    "reserve tokens": lambda _, grant: grant.reserve(10),
    "be refused tokens": lambda _, grant: grant.reserve(99),
    "settle": lambda _, grant: grant.settle(3),
    "settle what was reserved": lambda _, grant: grant.settle(),
    "abandon": lambda _, grant: grant.abandon(),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_death_at_any_store_leaves_before_or_after(tmp_path, monkeypatch, step):
    if "larger" in step:
        monkeypatch.setattr(file_module, "_FIRST_ENTRIES", 2)
    before = _play(tmp_path / "before", step, stores=0)
    after = _play(tmp_path / "after", step, stores=None)
    assert before is not None
    for stores in itertools.count(1):
        left = _play(tmp_path / str(stores), step, stores)
        if left is None:  # it was done before it died
            break
        for counted, *ends in zip(left, before, after, strict=True):
            assert min(ends) <= counted <= max(ends)
    assert stores > 3


def _play(directory, step, stores):
    """Return what is counted after a death, or None if the worker did not die."""
    clock_ns = [NOW_NS]
    worker, other = (
        LocalLimiter(directory, number, clock_ns=lambda: clock_ns[0], wall_s=float)
        for number in (1, 2)
    )
    admitted(other, "k", LIMITS, 20)  # leaves the request window before the step
    clock_ns[0] += 10 * S
    grant = admitted(worker, "k", LIMITS, 0 if "tokens" in step else 30)
    clock_ns[0] += 1
    admitted(other, "k", LIMITS, 10)
    clock_ns[0] += 1
    died = False
    if stores is not None:
        _let_die(worker.file("k"), [stores])
    try:
        now(STEPS[step](worker, grant))
    except Killed:
        died = True
    usage = now(other.usage("k", LIMITS))
    # What is left is whole: exactly as many get in as there is room for, and no more.
    room = LIMITS.requests - usage.requests
    limits = KeyLimits(requests=LIMITS.requests, window_s=10)
    assert sum(admitted(other, "k", limits) is not None for _ in range(20)) == room
    worker.close()
    other.close()
    return (usage.requests, usage.tokens, usage.concurrent) if died or stores is None else None


def _let_die(file, left):
    map_file = file._map

    def map_and_wrap():
        map_file()
        file._words = Dying(file._words, left)
        file.requests.words = file.tokens.words = file._words

    file._map = map_and_wrap
    map_and_wrap()
