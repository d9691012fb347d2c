"""Starts models with `auto` on this machine's GPU, alone and beside programs that use it.

    python -m bench.gpu_auto Qwen/Qwen3-8B-AWQ Qwen/Qwen3-4B --taken 0 0.3 0.6
    python -m bench.gpu_auto MODEL --memory 2 4        # bounds in GiB, also without a GPU

For each start it says what `vgate check` foresaw and what was chosen, and sends a prompt as long as
the context. A start has to serve that, or to end in a sentence. Run it where vLLM is installed.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import Any

import msgspec

from bench.compare.service import (
    ROOT,
    FailedError,
    Running,
    Service,
    free_port,
    present,
    vgate_environment,
)

_START_S, _ANSWER_S = 1800.0, 600.0
_VGATE = (sys.executable, "-m", "vgate.launcher")
_MIB = 1 << 20
# Holds a share of the GPU until its input ends.
_HOLD = (
    "import sys, torch; total = torch.cuda.mem_get_info()[1]; "
    "held = torch.empty(int(total * {share}), dtype=torch.uint8, device='cuda'); "
    "print('held', flush=True); sys.stdin.read()"
)


class Start(msgspec.Struct, kw_only=True):
    """One start: what was around it, and what became of it."""

    model: str
    taken: float
    memory_gib: float | None
    seconds: float = 0.0
    foreseen: str = ""
    chosen: str = ""
    context: int = 0
    refused: str = ""
    problem: str = ""


@contextmanager
def held(share: float) -> Iterator[None]:
    """Have another process hold a share of the GPU."""
    if not share:
        yield
        return
    command = [sys.executable, "-c", _HOLD.format(share=share)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            if process.stdout.readline().strip() != b"held":
                raise SystemExit(f"cannot hold {share:.0%} of the GPU")
            yield
        finally:
            process.stdin.close()


def try_start(start: Start, arguments: Sequence[str], work: Path) -> None:
    """Start V-Gate, use the whole context, and stop it; the outcome is in `start`."""
    service = _service(start, arguments, work)
    checked = subprocess.run(
        [*_VGATE, "check"],
        env=present(service.environment),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    start.foreseen = _after("# Chosen now: ", checked.stdout)
    try:
        with Running(service) as running:
            start.seconds = round(running.start_s, 1)
            _use(start, service)
            text = running.log()
    except FailedError as error:
        text = error.log
        start.refused = _after("vgate: ", text) or _after("The engine did not start: ", text)
    if "Traceback" in text:
        start.problem = "a traceback"
    elif not (start.context or start.refused):
        start.problem = "it neither serves nor says why"


def _service(start: Start, arguments: Sequence[str], work: Path) -> Service:
    port = free_port()
    settings: dict[str, object] = {
        "server__port": port,
        "server__run_dir": str(work / "run"),
        "server__state_dir": str(work / "state"),
        "model__model_id": start.model,
    }
    if start.memory_gib is not None:
        settings["model__memory_bytes"] = int(start.memory_gib * 1024) * _MIB
    return Service(
        command=[*_VGATE, *arguments],
        environment=vgate_environment(settings),
        port=port,
        ready_path="/ready",
        ready_timeout_s=_START_S,
        kinds=(),
    )


def _use(start: Start, service: Service) -> None:
    start.chosen = _get(service, "/ready")["engines"][0]["detail"]
    start.context = _get(service, "/v1/models")["data"][0]["max_model_len"]
    prompt = [100 + number % 100 for number in range(start.context - 8)]
    body = {"model": start.model, "prompt": prompt, "max_tokens": 8, "ignore_eos": True}
    try:
        status, _, answer = service.post("/v1/completions", json.dumps(body).encode(), _ANSWER_S)
        error = "" if status == HTTPStatus.OK else answer.decode(errors="replace")
    except (OSError, HTTPException) as broken:
        error = str(broken)
    if error:
        start.problem = f"a prompt of the whole context failed: {error}"


def _get(service: Service, path: str) -> Any:
    return json.loads(service.get(path, _ANSWER_S)[2])


def _after(mark: str, text: str) -> str:
    found = re.findall(f"^{re.escape(mark)}(.*)$", text, re.MULTILINE)
    return found[-1] if found else ""


def main(arguments: Sequence[str]) -> int:
    """Try all starts, print and write what became of them; return the exit status."""
    options, passed = _parser().parse_known_args(arguments)
    starts = [
        Start(model=model, taken=taken, memory_gib=memory)
        for model in options.models
        for taken in options.taken
        for memory in options.memory or [None]
    ]
    for start in starts:
        with held(start.taken), tempfile.TemporaryDirectory(prefix="vgate-auto-") as work:
            try_start(start, passed, Path(work))
        bound = "" if start.memory_gib is None else f", at most {start.memory_gib:g} GiB"
        print(f"{start.model}, {start.taken:.0%} taken{bound}:", flush=True)
        for name in ("foreseen", "chosen", "refused", "problem"):
            if text := getattr(start, name):
                print(f"  {name}: {text}", flush=True)
    options.out.write_bytes(msgspec.json.format(msgspec.json.encode(starts)) + b"\n")
    return 1 if any(start.problem for start in starts) else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu_auto",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Other arguments go to vgate, such as --dry-run.",
    )
    add = parser.add_argument
    add("models", nargs="+", metavar="MODEL")
    add("--taken", type=float, nargs="+", default=[0.0], metavar="SHARE", help="by another process")
    add("--memory", type=float, nargs="+", metavar="GIB", help="bounds: model.memory_bytes")
    add("--out", type=Path, default=Path("auto.json"), metavar="FILE.json")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
