"""`python -m bench.compare`: exit status 0 if every answer was right, 1 if not, 2 if refused."""

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from bench.compare.contenders import CONTENDERS
from bench.compare.models import Models
from bench.compare.peers import PEERS, install
from bench.compare.run import OutOfTimeError, Run
from bench.compare.scenarios import SCENARIOS
from bench.compare.service import ROOT, FailedError
from bench.compare.settings import Setup
from bench.load.options import positive
from bench.paced_device.device import DEVICES, Device

_FULL_S, _QUICK_S = 600, 60
# A scenario that begins with less than this share of its time would only be cut off.
_WORTH_BEGINNING = 0.5


def main(arguments: Sequence[str]) -> int:
    """Compare, write both files, print the tables; return the exit status."""
    options = parse(arguments)
    # So that SIGTERM ends the contenders too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Before the clock starts, since it is done only once and may take minutes.
    for peer in ("fastapi",) if options.quick else PEERS:
        if not options.no_install and (not options.contender or peer in options.contender):
            install(peer, options.peers)
    with tempfile.TemporaryDirectory(prefix="vgate-compare-") as directory:
        work = Path(directory)
        setup = Setup(
            models=Models(work),
            work=work,
            peers=options.peers,
            before=options.before,
            vllm_rs=options.vllm_rs,
            devices=dict(options.device),
            clients=tuple(options.clients),
        )
        run = Run(
            setup,
            quick=options.quick,
            repetitions=options.repetitions,
            total_s=options.seconds,
            only=options.contender,
        )
        _run_all(run, options)
    try:
        run.finish(options.out)
    except OSError as error:
        print(f"bench.compare: cannot write the results: {error}", file=sys.stderr)
        return 2
    for failure in run.comparison.failures:
        print(f"wrong: {failure}", file=sys.stderr)
    return 1 if run.comparison.failures else 0


def _run_all(run: Run, options: argparse.Namespace) -> None:
    """Run the scenarios in order; when time is over or on Ctrl-C the results so far count."""
    least_s = [SCENARIOS[name].least_time_s(quick=run.quick) for name in options.scenario]
    try:
        with run.alarm():
            for number, name in enumerate(options.scenario):
                share = least_s[number] / sum(least_s[number:])
                run.begin(name, SCENARIOS[name].title, share)
                if run.left_s < least_s[number] * _WORTH_BEGINNING:
                    run.note("Left out: no time was left for it.")
                    continue
                began_s = run.elapsed_s
                try:
                    SCENARIOS[name].run(run)
                except FailedError as error:
                    run.fail(str(error))
                finally:
                    run.result.seconds = round(run.elapsed_s - began_s, 1)
    except OutOfTimeError:
        run.note("The time was over before it ended.")
    except KeyboardInterrupt:
        run.fail("stopped by Ctrl-C")


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options, with the defaults that depend on others filled in."""
    parser = _parser()
    options = parser.parse_args(arguments)
    quick: bool = options.quick
    if options.before and not (options.before / "vgate" / "launcher").is_dir():
        parser.error(f"--before: {options.before} is not a checkout of V-Gate")
    options.before = options.before and options.before.resolve()
    names = options.scenario or [
        name
        for name, scenario in SCENARIOS.items()
        if not scenario.extra and (not quick or scenario.quick_s is not None)
    ]
    options.scenario = tuple(name for name in SCENARIOS if name in names)
    options.repetitions = options.repetitions or (1 if quick else 3)
    total_s = _QUICK_S if quick else _FULL_S
    # Another V-Gate has its starts and turns too.
    options.seconds = options.seconds or (total_s * 3 // 2 if options.before else total_s)
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.compare",
        description="Measure V-Gate and its peers side by side on this machine.",
        epilog=f"Scenarios: {', '.join(SCENARIOS)}. Contenders: {', '.join(CONTENDERS)}.",
    )
    add = parser.add_argument
    add("--quick", action="store_true", help="small loads, one repetition, at most a minute")
    add("--scenario", action="append", choices=SCENARIOS, metavar="NAME",
        help="only this one (repeatable)")  # fmt: skip
    add("--contender", action="append", choices=CONTENDERS, metavar="NAME", default=[],
        help="only this one (repeatable)")  # fmt: skip
    add("--before", type=Path, metavar="DIR",
        help="another checkout of V-Gate, which takes turns with this one")  # fmt: skip
    add("--repetitions", type=positive, metavar="N", help="turns of each (default 3, quick 1)")
    add(
        "--seconds",
        type=positive,
        metavar="S",
        help="limit for all (default 600, quick 60; half more with --before)",
    )
    add("--out", type=Path, default=Path("compare.json"), metavar="FILE.json",
        help="the results; the Markdown file is put beside it (default compare.json)")  # fmt: skip
    add("--peers", type=Path, default=ROOT / ".venv" / "compare", metavar="DIR",
        help="environment of FastAPI and LiteLLM (default .venv/compare)")  # fmt: skip
    add("--no-install", action="store_true", help="leave out peers that are not installed")
    rust = os.environ.get("VLLM_RS")
    add("--vllm-rs", type=Path, default=Path(rust) if rust else None, metavar="FILE",
        help="vLLM's Rust frontend, from its wheel for GPUs (default $VLLM_RS)")  # fmt: skip
    add("--device", type=_device, action="append", default=[], metavar="NAME or US,US,US",
        help="paced-device: another device (repeatable): a name, or the microseconds of each step, "
        f"sequence and prompt token. Names: {', '.join(DEVICES)}")  # fmt: skip
    add("--clients", type=positive, action="append", default=[], metavar="N",
        help="paced-device: another number of clients (repeatable)")  # fmt: skip
    return parser


def _device(text: str) -> tuple[str, Device]:
    """Return a paced device and its name."""
    return text, DEVICES.get(text) or Device.parse(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
