"""The command line."""

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.compare.contenders import CONTENDERS
from bench.compare.scenarios import SCENARIOS
from bench.compare.service import ROOT

_FULL_S = 600.0
_QUICK_S = 60.0


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for; `repetitions` and `total_s` have their defaults by now."""

    quick: bool
    scenarios: tuple[str, ...]
    contenders: tuple[str, ...]
    repetitions: int
    total_s: float
    out: Path
    peers: Path
    install: bool
    vllm_rs: Path | None


def parse(arguments: Sequence[str]) -> Options:
    """Return the options."""
    given = _parser().parse_args(arguments)
    quick: bool = given.quick
    names = given.scenario or [
        name
        for name, scenario in SCENARIOS.items()
        if not scenario.extra and (not quick or scenario.quick_s is not None)
    ]
    return Options(
        quick=quick,
        scenarios=tuple(name for name in SCENARIOS if name in names),
        contenders=tuple(given.contender or ()),
        repetitions=given.repetitions or (1 if quick else 3),
        total_s=given.seconds or (_QUICK_S if quick else _FULL_S),
        out=given.out,
        peers=given.peers,
        install=not given.no_install,
        vllm_rs=given.vllm_rs,
    )


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
    add("--contender", action="append", choices=CONTENDERS, metavar="NAME",
        help="only this one (repeatable)")  # fmt: skip
    add("--repetitions", type=_positive, metavar="N", help="turns of each (default 3, quick 1)")
    add("--seconds", type=_positive, metavar="S", help="all may take (default 600, quick 60)")
    add("--out", type=Path, default=Path("compare.json"), metavar="FILE.json",
        help="the results; Markdown goes beside it (default compare.json)")  # fmt: skip
    add("--peers", type=Path, default=ROOT / ".venv" / "compare", metavar="DIR",
        help="environment of FastAPI and LiteLLM (default .venv/compare)")  # fmt: skip
    add("--no-install", action="store_true", help="leave out who is not installed")
    rust = os.environ.get("VLLM_RS")
    add("--vllm-rs", type=Path, default=Path(rust) if rust else None, metavar="FILE",
        help="vLLM's Rust frontend, from its wheel for GPUs (default $VLLM_RS)")  # fmt: skip
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value
