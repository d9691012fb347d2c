"""`python -m bench.start`: where the time of a start goes, from its command to its first token.

Each turn starts V-Gate and asks for one token. With `--wake` another V-Gate starts without its
model, which the request then loads; how much memory it takes before is reported too. With
`--against-vllm` vLLM's own server takes turns with them, as it starts by default and in one
process. The first turn of each is not counted. `--imports` shows what importing vLLM consists of.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec

from bench.compare.contenders import build
from bench.compare.models import Models
from bench.compare.service import FailedError, Running, Service
from bench.compare.settings import Settings, Setup
from bench.load.processes import memory_kib

_TIMEOUT_S = 300.0
_MOST_SLOWER_S = 0.5
_REQUEST = json.dumps({"model": "tiny", "prompt": "Hello", "max_tokens": 1}).encode()
_IMPORTS = "import vgate.engine.backends.vllm.backend"
_IMPORT_LINE = re.compile(r"import time:\s+(\d+) \|\s+\d+ \|\s+([\w.]+)")
_SHOWN_PACKAGES = 12


class Part(NamedTuple):
    """A part of a start; one `beside` others is not part of their sum."""

    title: str
    seconds: float
    beside: bool = False


class Start(msgspec.Struct, kw_only=True):
    """One start.

    Attributes:
        total_s: Until the first answer.
        parts: What it consists of, in order.
        idle_mib: Of one that loads its model on demand: its processes' memory before it does.
    """

    total_s: float
    parts: list[Part] = []
    idle_mib: dict[str, float] | None = None


def main(arguments: Sequence[str]) -> int:
    """Measure and print; return the exit status: 1 if a wake was slower than vLLM's own start."""
    options = _parser().parse_args(arguments)
    if options.imports:
        print(table(imports(), "s"))
    with tempfile.TemporaryDirectory(prefix="vgate-start-") as directory:
        work = Path(directory)
        setup = Setup(models=Models(work), work=work, device=options.device, model=options.model)
        starts: dict[str, list[Start]] = {name: [] for name in _contenders(options)}
        for repetition in range(options.repetitions + 1):
            for name, found in starts.items():
                start = _turn(name, setup, options)
                print(f"{name}: {start.total_s:.2f} s", file=sys.stderr, flush=True)
                # The first has files read from the disk, and fills what it then remembers.
                if repetition:
                    found.append(start)
    for name, found in starts.items():
        print(f"\n## {name}\n\n{table(middle(found), 's')}")
        if (idle := found[-1].idle_mib) is not None:
            print(f"\nMemory without a model: {idle['pss']:.0f} MiB (PSS), {idle['rss']:.0f} (RSS)")
    if options.out:
        options.out.write_bytes(msgspec.json.format(msgspec.json.encode(starts)) + b"\n")
    return _judge({name: median(s.total_s for s in found) for name, found in starts.items()})


def _contenders(options: argparse.Namespace) -> Iterator[str]:
    yield "vgate-dry-run" if options.dry_run else "vgate"
    if options.wake:
        yield "vgate-dry-run wake" if options.dry_run else "vgate wake"
    if options.against_vllm:
        yield from ("vllm-serve", "vllm-serve-1p")


def _judge(totals: dict[str, float]) -> int:
    woken = totals.get("vgate wake")
    theirs = [seconds for name, seconds in totals.items() if name.startswith("vllm")]
    if woken is None or not theirs:
        return 0
    slower_s = woken - min(theirs)
    fits = slower_s <= _MOST_SLOWER_S
    print(f"\nA wake takes {slower_s:+.2f} s of vLLM's own start (at most +{_MOST_SLOWER_S} s)")
    return 0 if fits else 1


def _turn(name: str, setup: Setup, options: argparse.Namespace) -> Start:
    """Start one contender, wait for one token, and end it."""
    contender, _, wakes = name.partition(" ")
    service = build(contender, setup, Settings(workers=options.workers))
    if contender.startswith("vgate"):
        settings = {"LOGGING__LEVEL": "debug", "LOGGING__JSON_FORMAT": "true"}
        settings |= {"SERVER__STATE_DIR": str(setup.work / "state")}
        if wakes:
            settings |= {"MODEL__LOAD": "on_demand", "RESIDENCY__MEMORY_BYTES": str(1 << 40)}
            settings |= {"MODEL__MEMORY_BYTES": str(1 << 30)}
        named = {f"VGATE_{key}": value for key, value in settings.items()}
        service = msgspec.structs.replace(service, environment=service.environment | named)
    began, began_at = time.monotonic(), time.time()
    with Running(service) as running:
        idle = None
        if wakes:
            idle = _memory(running)
            began, began_at = time.monotonic(), time.time()
        answered_s = began_at + _first_answer(service, began)
        lines = list(_lines(running.log()))
    total_s = answered_s - began_at
    parts = list(account(lines, began_at, answered_s)) if contender.startswith("vgate") else []
    return Start(total_s=total_s, parts=parts, idle_mib=idle)


def _first_answer(service: Service, began: float) -> float:
    """Return the seconds until a request was answered."""
    status, _, body = service.post("/v1/completions", _REQUEST, _TIMEOUT_S)
    if status != 200:
        raise FailedError(f"{service.name} answered {status}: {body[:500].decode()}")
    return time.monotonic() - began


def _memory(running: Running) -> dict[str, float]:
    readings = [memory_kib(pid) for _, pid in running.processes]
    return {
        "pss": sum(reading["Pss"] for reading in readings) / 1024,
        "rss": sum(reading["Rss"] for reading in readings) / 1024,
    }


def _lines(log: str) -> Iterator[dict[str, Any]]:
    """Yield the lines of a JSON log that are V-Gate's own."""
    for line in log.splitlines():
        try:
            document = json.loads(line)
        except ValueError:
            continue
        if isinstance(document, dict) and str(document.get("logger")).startswith("vgate"):
            yield document


def account(lines: Sequence[dict[str, Any]], began: float, answered: float) -> Iterator[Part]:
    """Yield the parts of a start, from its log, between two Unix times."""
    marks: list[tuple[float, str]] = [(began, "launcher: imports, checks, sockets")]
    frontends: dict[str, float] = {}
    for line in lines:
        at, process = datetime.fromisoformat(line["ts"]).timestamp(), str(line["process"])
        event = line["event"]
        if event == "process started" and str(line["name"]).startswith("frontend"):
            frontends[line["name"]] = at
        elif event == "frontend listens" and process in frontends:
            yield Part(f"{process}: until it listens", at - frontends[process], beside=True)
        if at < began or at > answered:
            continue
        if event == "process started" and str(line["name"]).startswith("engine"):
            marks.append((at, "engine: Python, settings"))
        elif event == "engine starting" and process.startswith("engine"):
            marks.append((at, f"engine: {line['phase']}"))
        elif event == "engine ready":
            marks.append((at, "frontend: connects, reads the tokenizer"))
        elif event == "the model's text is read":
            marks.append((at, "frontend: tells that it is ready; the request's first token"))
    marks.append((answered, ""))
    for (at, title), (until, _) in pairwise(marks):
        yield Part(title, until - at)


def middle(starts: Sequence[Start]) -> list[Part]:
    """Return the median of each part, and of their sum."""
    seconds: dict[str, list[float]] = {}
    beside: dict[str, bool] = {}
    for start in starts:
        for part in start.parts:
            seconds.setdefault(part.title, []).append(part.seconds)
            beside[part.title] = part.beside
    parts = [Part(title, median(found), beside[title]) for title, found in seconds.items()]
    total = Part("until the first token", median(start.total_s for start in starts))
    return [*sorted(parts, key=lambda part: part.beside), total]


def table(parts: Sequence[Part], unit: str) -> str:
    """Return parts as a Markdown table."""
    rows = [
        f"| {'(beside) ' if part.beside else ''}{part.title} | {part.seconds:.2f} |"
        for part in parts
    ]
    return "\n".join([f"| part | {unit} |", "|---|---|", *rows])


def imports() -> list[Part]:
    """Return the seconds that importing vLLM as the engine does takes in each package."""
    found = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", _IMPORTS],
        capture_output=True,
        text=True,
        check=True,
        timeout=_TIMEOUT_S,
    )
    return packages(found.stderr)


def packages(text: str) -> list[Part]:
    """Sum what `python -X importtime` writes by top-level package, the slowest first."""
    sums: dict[str, int] = {}
    for found in _IMPORT_LINE.finditer(text):
        name = found[2].partition(".")[0]
        sums[name] = sums.get(name, 0) + int(found[1])
    order = sorted(sums.items(), key=lambda pair: -pair[1])
    rest = sum(microseconds for _, microseconds in order[_SHOWN_PACKAGES:])
    shown = [*order[:_SHOWN_PACKAGES], ("all others", rest)]
    return [Part(f"import {name}", microseconds / 1e6) for name, microseconds in shown]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.start", description=__doc__)
    add = parser.add_argument
    add("--dry-run", action="store_true", help="with the simulated engine")
    add("--wake", action="store_true", help="also the loading of a model on demand")
    add("--against-vllm", action="store_true", help="also vLLM's own server")
    add("--imports", action="store_true", help="also what importing vLLM consists of")
    add("--repetitions", type=int, default=3, metavar="N")
    add("--workers", type=int, default=1, metavar="N", help="frontends")
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--model", type=Path, metavar="DIRECTORY", help="in place of a tiny one")
    add("--out", type=Path, metavar="FILE.json")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
