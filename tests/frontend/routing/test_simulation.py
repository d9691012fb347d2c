"""What comes of the decisions, in simulated time."""

import pytest

from bench.paced_device.device import DEVICES
from bench.routing.decisions import decision_s
from bench.routing.simulation import MACHINE, Workload, machine_of, oracle, run

PLAIN = "several system prompts"
# Conversations of 8 turns with 4,000 tokens before them.
LOADS = {
    PLAIN: Workload(),
    "each its own": Workload(systems=50),
    "few, and more at once": Workload(systems=3, pause_s=0.5),
}


@pytest.mark.parametrize(
    ("name", "machine"),
    [
        *((name, MACHINE) for name in LOADS),
        # Cards by their data sheets.
        *((PLAIN, machine_of(DEVICES[card])) for card in ("rtx4090-7b", "rtx3060-1.5b")),
    ],
)
def test_prefix_aware_routing_finds_what_can_be_found(name, machine):
    load = LOADS[name]
    aware, turns = run("prefix_aware", load, machine), run("round_robin", load, machine)
    assert aware.hits >= 0.95 * oracle(load, machine).hits
    assert aware.prefilled <= 0.4 * turns.prefilled
    assert aware.median_ttft_s <= 0.5 * turns.median_ttft_s


@pytest.mark.parametrize("pause_s", [0.2, 2.0])
@pytest.mark.parametrize("turns", [1, 8])
def test_one_hot_prefix_is_work_for_all(pause_s, turns):
    load = Workload(conversations=400 // turns, turns=turns, systems=1, pause_s=pause_s)
    aware = run("prefix_aware", load)
    assert aware.imbalance <= 1.3
    assert aware.hits >= 0.95 * oracle(load).hits


def test_a_run_can_be_repeated():
    load = Workload(conversations=5, turns=2)
    assert run("prefix_aware", load) == run("prefix_aware", load)


def test_a_decision_takes_microseconds():
    # About 50 us with 4,000 tokens. Something linear in the index would take milliseconds.
    assert decision_s("prefix_aware") < 0.002
