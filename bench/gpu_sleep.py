"""`python -m bench.gpu_sleep MODEL MODEL`: two models that take turns on a GPU, asleep and stopped.

Each turn asks one model, which makes the other one leave. Once with vLLM's sleep mode and once
without, it reports how long a request waits for its model, what stays of the GPU's memory, and
whether a model answers as it did before it left. `--dry-run` needs no GPU, and tests this program.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from bench.compare.service import FailedError, Running, Service, free_port, vgate_environment
from vgate.fit.nvidia import nvidia_smi

_TIMEOUT_S = 1800.0
_PROMPT = "Count from one to twenty."
_GIB = 1 << 30


class Turns(msgspec.Struct):
    """What one way of unloading showed.

    Attributes:
        first_s: Until the first answer of each model, which was never loaded before.
        again_s: Until the first answer of each later turn.
        changed: How many answers differ from the model's first one.
        used_mib: Of the GPU's memory after each later turn; empty without one.
    """

    first_s: list[float] = []
    again_s: list[float] = []
    changed: int = 0
    used_mib: list[int] = []


def main(arguments: Sequence[str]) -> int:
    """Measure and print; return the exit status: 1 if an answer changed or sleep wasn't faster."""
    options = _parser().parse_args(arguments)
    found = {unload: take_turns(options, unload) for unload in ("sleep", "stop")}
    for unload, turns in found.items():
        print(
            f"{unload}: first {median(turns.first_s):.2f} s, again {median(turns.again_s):.2f} s, "
            f"{turns.changed} answers changed, {max(turns.used_mib, default=0)} MiB of the GPU used"
        )
    if options.out:
        options.out.write_bytes(msgspec.json.format(msgspec.json.encode(found)) + b"\n")
    faster = median(found["sleep"].again_s) < median(found["stop"].again_s)
    return 0 if faster and not any(turns.changed for turns in found.values()) else 1


def take_turns(options: argparse.Namespace, unload: str) -> Turns:
    """Ask the models in turns, and return what that showed."""
    turns, first = Turns(), dict[str, str]()
    with (
        tempfile.TemporaryDirectory(prefix="vgate-sleep-") as work,
        Running(_service(options, unload, work)) as running,
    ):
        for _ in range(options.turns + 1):
            for model in options.models:
                began = time.monotonic()
                answer = _ask(running.service, model)
                seconds = time.monotonic() - began
                if model not in first:
                    first[model] = answer
                    turns.first_s.append(seconds)
                    continue
                turns.again_s.append(seconds)
                turns.changed += answer != first[model]
                turns.used_mib += _used_mib()
        if running.log().count("process died"):
            raise FailedError("an engine died", running.log_tail())
    return turns


def _service(options: argparse.Namespace, unload: str, work: str) -> Service:
    usual: dict[str, Any] = {"task": "generate", "load": "on_demand"}
    if options.memory_gib:
        usual["memory_bytes"] = int(options.memory_gib * _GIB)
    residency: dict[str, Any] = {"unload": unload, "min_loaded_s": 0, "max_wait_s": 1}
    if options.dry_run:
        usual["memory_bytes"], residency["memory_bytes"] = _GIB, int(1.5 * _GIB)
    port = free_port()
    settings = {
        "server__port": port,
        "server__state_dir": work,
        "server__run_dir": f"{work}/run",
        "cache__enabled": False,
        "models": [{"model_id": model, **usual} for model in options.models],
        **{f"residency__{name}": value for name, value in residency.items()},
    }
    return Service(
        name=f"vgate ({unload})",
        command=[
            *(sys.executable, "-m", "vgate.launcher"),
            *(["--dry-run"] if options.dry_run else []),
        ],
        environment=vgate_environment(settings),
        port=port,
        ready_path="/ready",
        kinds=(),
    )


def _ask(service: Service, model: str) -> str:
    messages = [{"role": "user", "content": _PROMPT}]
    body = {"model": model, "messages": messages, "temperature": 0, "max_tokens": 64}
    status, _, answer = service.post("/v1/chat/completions", json.dumps(body).encode(), _TIMEOUT_S)
    if status != 200:
        raise FailedError(f"{model} answered {status}", answer.decode(errors="replace"))
    text: str = json.loads(answer)["choices"][0]["message"]["content"]
    return text


def _used_mib() -> list[int]:
    answer = nvidia_smi("--query-gpu=memory.used", "--format=csv,noheader,nounits")
    return [sum(int(line) for line in answer.split() if line.isdigit())] if answer else []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu_sleep", description=__doc__)
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL", help="of which not all fit at once")
    add("--turns", type=int, default=5, metavar="N", help="of each model")
    add(
        "--memory-gib", type=float, metavar="GIB", help="what each takes of the GPU; or as fit says"
    )
    add("--dry-run", action="store_true")
    add("--out", type=Path, metavar="FILE.json")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
