"""`python -m bench.engine_loop MODEL_DIR`: tokens/s of the bare EngineCore and of the engine.

Each runs in its own process, and they take turns, so that other load on the machine affects both
alike. Exit status 0 if both were measured, 1 if not, 2 if refused.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec

from bench.compare.results import Figure
from bench.engine_loop.client import Client, EngineFailedError
from bench.engine_loop.workload import Workload, vocabulary_size
from bench.load.options import positive
from bench.load.processes import read_process
from vgate.config import Config, Runtime
from vgate.config.schema import Batch, Logging, Model

_ROOT = Path(__file__).parents[2]
_START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 15
_LOG_TAIL_CHARS = 4000
# Prompt and answer must fit into the context in whole KV blocks of any size.
_CONTEXT_ROUNDING = 256


class Measured(msgspec.Struct, frozen=True):
    """One repetition of one side: its time, and its process's CPU time."""

    seconds: float
    cpu_s: float


class Summary(msgspec.Struct, frozen=True):
    """The result.

    Attributes:
        model: Directory of the model.
        workload: What was generated.
        bare: Tokens/s of vLLM's EngineCore in a minimal loop.
        served: Tokens/s of the engine process, through its socket.
        ratio: Median of `served` over median of `bare`.
        pairs: The ratio of each repetition, whose two measurements followed each other. On a
            machine whose speed drifts it says more than `ratio`.
        bare_cpu_us, served_cpu_us: CPU time of the process per token, all threads, over all
            repetitions. Other programs affect it less than the rates.
    """

    model: str
    workload: Workload
    bare: Figure
    served: Figure
    ratio: float
    pairs: Figure
    bare_cpu_us: float
    served_cpu_us: float


def summarize(
    model: str, workload: Workload, bare: Sequence[Measured], served: Sequence[Measured]
) -> Summary:
    """Summarize measurements; both sides have equally many."""
    rates = [Figure.of([workload.tokens / one.seconds for one in side]) for side in (bare, served)]
    cpu_s = [sum(one.cpu_s for one in side) / len(side) for side in (bare, served)]
    return Summary(
        model=model,
        workload=workload,
        bare=rates[0],
        served=rates[1],
        ratio=rates[1].median / rates[0].median,
        pairs=Figure.of([a.seconds / b.seconds for a, b in zip(bare, served, strict=True)]),
        bare_cpu_us=cpu_s[0] / workload.tokens * 1e6,
        served_cpu_us=cpu_s[1] / workload.tokens * 1e6,
    )


def table(summary: Summary) -> str:
    """Return the summary for people."""
    work, bare, served = summary.workload, summary.bare, summary.served
    each = f"{work.prompt_tokens} prompt and {work.output_tokens} output tokens"
    lines = [
        f"{work.rounds} x {work.sequences} sequences of {each} a repetition; in tokens/s:",
        f"{'repetition':<12}{'EngineCore':>12}{'V-Gate':>12}{'ratio':>8}",
    ]
    rows = zip(bare.values, served.values, summary.pairs.values, strict=True)
    for number, (one, other, ratio) in enumerate(rows, start=1):
        lines.append(f"{number:<12}{one:>12,.0f}{other:>12,.0f}{ratio:>8.3f}")
    spreads = [f"{(side.max - side.min) / side.median:>12.1%}" for side in (bare, served)]
    cpu_us = summary.bare_cpu_us, summary.served_cpu_us
    lines += [
        f"{'median':<12}{bare.median:>12,.0f}{served.median:>12,.0f}{summary.ratio:>8.3f}",
        f"{'of pairs':<36}{summary.pairs.median:>8.3f}",
        f"{'spread':<12}{''.join(spreads)}",
        f"{'CPU us/token':<12}{cpu_us[0]:>12.1f}{cpu_us[1]:>12.1f}{cpu_us[0] / cpu_us[1]:>8.3f}",
    ]
    return "\n".join(lines)


def runtime(model: str, workload: Workload, run_dir: str) -> Runtime:
    """Return the configuration that both sides run on."""
    longest = workload.prompt_tokens + workload.output_tokens
    context = -(-longest // _CONTEXT_ROUNDING) * _CONTEXT_ROUNDING
    config = Config(
        model=Model(model_id=model, max_model_len=context),
        batch=Batch(max_batch_size=workload.sequences),
        logging=Logging(level="warning"),
    )
    return Runtime(config=config, backend="vllm", run_dir=run_dir)


def _measure(model: str, workload: Workload, repetitions: int) -> Summary:
    vocabulary = vocabulary_size(model)
    with tempfile.TemporaryDirectory(prefix="vgate-loop-") as run_dir:
        settings = runtime(model, workload, run_dir)
        settings.write()
        encoded = msgspec.json.encode(workload).decode()
        engine = ("vgate.engine", "--run-dir", run_dir, "--engine", "0", "--parent")
        with (
            _process("bench.engine_loop.bare", run_dir, encoded, answers=True) as bare,
            _process(*engine, str(os.getpid())) as served,
        ):
            _answer(bare)
            client = Client(settings.engine_endpoint(0))
            client.ready(_START_TIMEOUT_S)
            pairs = []
            for seed in range(repetitions + 1):
                before_s = _cpu_s(bare)
                assert bare.stdin is not None
                bare.stdin.write(f"{seed}\n")
                of_bare = Measured(float(_answer(bare)), _cpu_s(bare) - before_s)
                before_s = _cpu_s(served)
                prompts = workload.prompts(vocabulary, seed)
                seconds = sum(client.generate(one, workload.output_tokens) for one in prompts)
                pairs.append((of_bare, Measured(seconds, _cpu_s(served) - before_s)))
            client.close()
    # The first repetition warms both up.
    return summarize(model, workload, *zip(*pairs[1:], strict=True))


@contextmanager
def _process(
    module: str, *arguments: str, answers: bool = False
) -> Iterator[subprocess.Popen[str]]:
    """Start a Python module, and end it afterwards; if it fails the log's end is shown."""
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=_ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE if answers else log,
            stderr=log,
            text=True,
            bufsize=1,
        )
        try:
            yield process
        except EngineFailedError as error:
            raise EngineFailedError(f"{error}\n{module}: {_tail(log)}") from None
        finally:
            process.terminate()
            try:
                process.communicate(timeout=_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def _tail(log: IO[bytes]) -> str:
    log.seek(0)
    return log.read().decode(errors="replace")[-_LOG_TAIL_CHARS:]


def _answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    if line := process.stdout.readline():
        return line.strip()
    raise EngineFailedError("the bare engine has ended")


def _cpu_s(process: subprocess.Popen[str]) -> float:
    reading = read_process(process.pid)
    if reading is None:
        raise EngineFailedError("an engine has ended")
    return reading.cpu_s


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table, write the JSON file; return the exit status."""
    options = _parser().parse_args(arguments)
    model: Path = options.model
    if not (model / "config.json").is_file():
        print(f"bench.engine_loop: {model} holds no model", file=sys.stderr)
        return 2
    workload = Workload(**{name: getattr(options, name) for name in Workload.__struct_fields__})
    try:
        summary = _measure(str(model.resolve()), workload, options.repetitions)
    except EngineFailedError as error:
        print(f"bench.engine_loop: {error}", file=sys.stderr)
        return 1
    print(table(summary))
    if options.json:
        encoded = msgspec.json.format(msgspec.json.encode(summary), indent=2)
        options.json.write_bytes(encoded + b"\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.engine_loop", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    for name, default in msgspec.to_builtins(Workload()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=positive, default=default)
    parser.add_argument("--repetitions", type=positive, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
