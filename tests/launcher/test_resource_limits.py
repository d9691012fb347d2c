"""Few open files: as many as possible are allowed, and too few are told."""

import resource

import pytest

from vgate.config import Config
from vgate.launcher import resource_limits
from vgate.launcher.run_dir import StartError

INFINITE = resource.RLIM_INFINITY


@pytest.fixture
def limits(monkeypatch):
    """Return a function that sets the limits of this process, in appearance."""
    current = [(0, 0)]
    monkeypatch.setattr(resource_limits.resource, "getrlimit", lambda _what: current[0])
    monkeypatch.setattr(
        resource_limits.resource, "setrlimit", lambda _what, new: current.__setitem__(0, new)
    )

    def start(soft: int, hard: int) -> tuple[int, int]:
        current[0] = soft, hard
        start.connections = resource_limits.allow_files(Config())
        return current[0]

    return start


@pytest.mark.parametrize(
    ("soft", "hard", "raised"),
    [
        (1024, 20_000, 20_000),
        (1024, 1 << 30, 1 << 20),
        (1024, INFINITE, 1 << 20),
        (1 << 30, 1 << 30, 1 << 30),
        (INFINITE, INFINITE, INFINITE),
    ],
)
def test_the_soft_limit_is_raised_and_never_lowered(limits, soft, hard, raised):
    assert limits(soft, hard) == (raised, hard)


def test_too_few_to_start_are_refused_in_words(limits):
    with pytest.raises(StartError, match=r"only 40 files may be open \(ulimit -n\)"):
        limits(40, 40)


@pytest.mark.parametrize(("hard", "told"), [(128, True), (100_000, False)])
def test_too_few_for_a_full_queue_are_told_with_numbers(limits, caplog, hard, told):
    limits(64, hard)
    assert ("few files may be open" in caplog.text) == told
    if told:
        (record,) = caplog.records
        fields = record.vgate_fields
        assert fields["allowed"] == hard
        assert fields["needed_for_a_full_queue"] > 1024 + 256
        assert fields["connections_of_each_worker"] == limits.connections


@pytest.mark.parametrize("hard", [128, 1024, 20_000])
def test_a_frontend_takes_fewer_connections_than_files(limits, hard):
    limits(64, hard)
    assert 8 <= limits.connections < hard - 64
    limits(64, INFINITE)
    assert limits.connections == 65_536
