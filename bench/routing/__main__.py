"""Measure routing: what a decision takes, and what comes of the decisions in simulated time.

`python -m bench.routing`, and with `--served` the same over HTTP
"""

import argparse

from bench.paced_device.device import DEVICES, Device
from bench.routing import served
from bench.routing.decisions import decision_s
from bench.routing.simulation import (
    MACHINE,
    Machine,
    Outcome,
    Workload,
    machine_of,
    oracle,
    run,
)
from vgate.frontend.routing import POLICIES

_WORKLOADS = {
    "50 conversations x 8 turns, 10 system prompts": Workload(),
    "the same, one system prompt": Workload(systems=1),
    "the same, each its own": Workload(systems=50),
    "200 conversations, 20 system prompts": Workload(conversations=200, systems=20),
}


def simulated(machine: Machine) -> None:
    """Print what a decision takes, and what comes of decisions in simulated time."""
    print("a decision and its account, 4,000 tokens, median:")
    for policy in POLICIES:
        for replicas in (4, 64, 512):
            print(
                f"  {policy:13} {replicas:3} replicas {decision_s(policy, replicas) * 1e6:6.1f} us"
            )
    for name, load in _WORKLOADS.items():
        print(f"{name}, 4,000 tokens each, 4 replicas, 2 frontends:")
        best = oracle(load, machine)
        _print("oracle", best, best, best)
        outcomes = {policy: run(policy, load, machine) for policy in POLICIES}
        for policy, outcome in outcomes.items():
            _print(policy, outcome, best, outcomes["round_robin"])


def _print(name: str, outcome: Outcome, best: Outcome, baseline: Outcome) -> None:
    print(
        f"  {name:13} hits {outcome.hits:6.1%} ({outcome.hits / best.hits:6.1%} of the oracle's)"
        f"  prefilled {outcome.prefilled:9,} ({outcome.prefilled / baseline.prefilled:4.0%})"
        f"  busiest {outcome.imbalance:4.2f} x mean  TTFT p50 {outcome.median_ttft_s * 1e3:5.1f} ms"
    )


def _device(text: str) -> Device:
    return DEVICES.get(text) or Device.parse(text)


def main() -> None:
    """Print what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench.routing", description=__doc__)
    add = parser.add_argument
    add("--served", action="store_true", help="over HTTP, from simulated engines")
    text = "from two gateways and two engines' hosts, as network namespaces (root), with --served"
    add("--hosts", action="store_true", help=text)
    text = f"what each replica runs on: {', '.join(DEVICES)}, or three times in us, as 20000,1,50"
    add("--device", type=_device, metavar="DEVICE", help=f"{text} (those)")
    text = "system prompts, with --served; none: only saturation"
    add("--systems", type=int, nargs="*", default=[10, 50], help=text)
    add("--repetitions", type=int, default=1, help="of each policy, in turn, with --served")
    options = parser.parse_args()
    machine = machine_of(options.device) if options.device else MACHINE
    if not options.served:
        simulated(machine)
        return
    for systems in options.systems:
        load = Workload(systems=systems)
        served.compare(load, machine, options.repetitions, hosts=options.hosts)
    if options.device is None:
        served.saturated(hosts=options.hosts)


if __name__ == "__main__":
    main()
