"""Budgets: what fits, what the ledger says, periods, and workers that die."""

import subprocess
import sys
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path

import pytest

from vgate.frontend.access import budget as budgets
from vgate.frontend.access.budget import Budget, Budgets
from vgate.frontend.access.meter import tokens_used_since
from vgate.usage import CountsFile, Used

ROOT = Path(budgets.__file__).parents[3]
DAY = Budget(100, "day")
MONTH = Budget(100, "month")

# Reserves 60 tokens of key k, and waits to be killed.
PROGRAM = """
import sys, time
from datetime import date
from pathlib import Path
from vgate.frontend.access.budget import Budget, Budgets

mine = Budgets(Path(sys.argv[1]), 2, lambda key, day: 0, lambda: date(2030, 1, 31))
assert mine.reserve("k", Budget(100, "day"), 60) is None
print(flush=True)
time.sleep(60)
"""


class World:
    """Workers of one instance, its ledger and its calendar."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.today = date(2030, 1, 31)
        self.counts = CountsFile(path / "usage")

    def worker(self, number: int = 1, instance: str = "run") -> Budgets:
        since = partial(tokens_used_since, self.path)
        return Budgets(self.path / instance, number, since, lambda: self.today)

    def use(self, worker: Budgets, budget: Budget | None, reserved: int, used: int) -> None:
        def count(day: date) -> None:
            self.counts.add("k", "m", day, Used(1, used))

        worker.settle("k", budget, reserved, used, count)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_what_may_be_used_at_most_must_fit(world):
    one, two = world.worker(1), world.worker(2)
    assert one.reserve("k", DAY, 60) is None
    assert two.reserve("k", DAY, 41) == 40
    assert two.reserve("k", DAY, 40) is None
    assert one.reserve("k", DAY, 1) == 0
    assert one.reserve("other", DAY, 100) is None
    world.use(one, DAY, 60, 10)
    assert two.used("k", DAY) == 50
    assert two.reserve("k", DAY, 51) == 50
    world.use(two, DAY, 40, 0)
    assert two.used("k", DAY) == 10


@pytest.mark.parametrize("budget", [DAY, MONTH])
def test_a_restart_forgets_nothing(world, budget):
    world.use(world.worker(), budget, 0, 30)  # before it had a budget
    first = world.worker(3, "first")
    assert first.reserve("k", budget, 71) == 70
    assert first.reserve("k", budget, 70) is None
    world.use(first, budget, 70, 25)
    assert world.worker(1, "second").used("k", budget) == 55


def test_a_period_begins_anew(world):
    worker = world.worker()
    world.today = date(2030, 1, 30)
    for _ in range(2):
        assert worker.reserve("k", DAY, 45) is None
        assert worker.reserve("m", MONTH, 45) is None
        world.use(worker, DAY, 45, 45)
        worker.settle("m", MONTH, 45, 45, lambda day: world.counts.add("m", "m", day, Used(1, 45)))
    assert (worker.used("k", DAY), worker.used("m", MONTH)) == (90, 90)
    assert worker.reserve("k", DAY, 10) is None  # ends in the next day
    world.today = date(2030, 1, 31)
    assert (worker.used("k", DAY), worker.used("m", MONTH)) == (10, 90)
    world.use(worker, DAY, 10, 7)
    assert worker.used("k", DAY) == 7
    world.today = date(2030, 2, 1)
    assert (worker.used("k", DAY), worker.used("m", MONTH)) == (0, 0)
    world.today = date(2030, 1, 31)  # the clock was set back
    assert (worker.used("k", DAY), worker.used("m", MONTH)) == (7, 90)


@pytest.mark.parametrize(
    ("budget", "today", "anew"),
    [
        (DAY, date(2030, 12, 31), datetime(2031, 1, 1, tzinfo=UTC)),
        (MONTH, date(2030, 12, 31), datetime(2031, 1, 1, tzinfo=UTC)),
        (MONTH, date(2030, 1, 1), datetime(2030, 2, 1, tzinfo=UTC)),
        (MONTH, date(2028, 2, 29), datetime(2028, 3, 1, tzinfo=UTC)),
    ],
)
def test_when_it_begins(budget, today, anew):
    assert budget.next_begins(today) == anew


def test_another_budget_counts_what_was_used_before(world):
    worker = world.worker()
    world.use(worker, DAY, 0, 10)
    assert worker.used("k", DAY) == 10
    world.use(worker, None, 0, 10)  # while it had none
    assert worker.used("k", DAY) == 10
    worker.begin_anew("k")
    assert worker.used("k", DAY) == 20
    worker.begin_anew("nobody")


def test_a_killed_workers_reservations_go_with_it(world):
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(world.path / "run")], cwd=ROOT, stdout=subprocess.PIPE
    )
    survivor = world.worker(1)
    assert child.stdout.readline()
    assert survivor.reserve("k", DAY, 41) == 40
    child.kill()
    child.communicate()
    assert survivor.reserve("k", DAY, 100) is None
    world.use(survivor, DAY, 100, 0)
    # And those of a worker before this one with its number.
    earlier = world.worker(7)
    earlier.reserve("k", DAY, 60)
    earlier.close()
    assert world.worker(7).used("k", DAY) == 0


def test_a_ledger_that_can_not_be_read_lets_nothing_through(world):
    (world.path / "usage.db").write_bytes(b"no database" * 99)
    worker = world.worker()
    with pytest.raises(OSError, match="not a database"):
        worker.reserve("k", DAY, 1)
    (world.path / "usage.db").unlink()
    assert worker.reserve("k", DAY, 100) is None
