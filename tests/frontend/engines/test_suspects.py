"""Requests that engines died with."""

import os
import time

import msgspec
import pytest

from vgate.errors import EngineUnavailableError
from vgate.frontend.engines.suspects import Suspects
from vgate.wire.messages import Embed, Generate
from vgate.wire.parameters import DEFAULTS

KILLER = Generate(1, b"\1\0\0\0", DEFAULTS, dedup_key=b"x")


@pytest.fixture
def workers(tmp_path):
    """Two workers that have noticed an engine's death."""
    made = [Suspects(tmp_path / "suspects", "m", 60.0) for _ in range(2)]
    for worker in made:
        worker.on_death()
    return made


def test_all_workers_know_one_whoever_sends_it_again(workers):
    one, other = workers
    assert one.check(KILLER) == 0
    one.report(KILLER, 2)
    again = msgspec.structs.replace(KILLER, id=7, dedup_key=b"", resumed=True, generated=b"\2")
    assert [worker.check(again) for worker in workers] == [2, 2]
    other.report(again, 3)
    for worker in workers:
        with pytest.raises(EngineUnavailableError, match="3 engines died") as caught:
            worker.check(KILLER)
        assert 1 <= caught.value.retry_after_s <= 60


def test_fewer_deaths_take_none_back(workers):
    one, other = workers
    one.report(KILLER, 3)
    other.report(KILLER, 2)
    with pytest.raises(EngineUnavailableError):
        one.check(KILLER)


def test_a_clock_that_is_set_back_refuses_nothing_for_longer(workers, tmp_path):
    one, _ = workers
    one.report(KILLER, 3)
    [path] = (tmp_path / "suspects").iterdir()
    tomorrow = time.time() + 86_400
    os.utime(path, (tomorrow, tomorrow))
    assert one.check(KILLER) == 0


@pytest.mark.parametrize(
    "other",
    [
        Generate(1, b"\2\0\0\0", DEFAULTS),
        Generate(1, KILLER.prompt, msgspec.structs.replace(DEFAULTS, temperature=0)),
        Generate(1, KILLER.prompt, DEFAULTS, tenant="alice"),
        Embed(1, KILLER.prompt),
    ],
)
def test_another_request_is_none(workers, other):
    workers[0].report(KILLER, 3)
    assert workers[0].check(other) == 0
    assert Suspects(workers[0]._directory, "another model", 60.0).check(KILLER) == 0


def test_it_is_forgotten(workers, tmp_path):
    workers[0].report(KILLER, 3)
    (path,) = (tmp_path / "suspects").iterdir()
    os.utime(path, (0, 0))
    assert workers[0].check(KILLER) == 0
    workers[0].report(msgspec.structs.replace(KILLER, prompt=b"\3\0\0\0"), 2)
    assert not path.exists()


def test_a_file_that_cannot_be_used_is_no_obstacle(workers, tmp_path):
    workers[0].report(KILLER, 3)
    (path,) = (tmp_path / "suspects").iterdir()
    path.write_text("")
    assert workers[0].check(KILLER) == 0
    path.unlink()
    path.parent.rmdir()
    workers[0].report(KILLER, 3)
    assert workers[0].check(KILLER) == 0


def test_nobody_looks_before_an_engine_has_died(workers, tmp_path):
    workers[0].report(KILLER, 3)
    assert Suspects(tmp_path / "suspects", "m", 60.0).check(KILLER) == 0
