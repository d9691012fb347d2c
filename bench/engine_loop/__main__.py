"""Measures tokens/s of a bare EngineCore loop and of V-Gate's engine on the same model.

With `--watchers` it measures V-Gate's engine twice instead: so many clients of one of the two are
told what is in its prefix cache. Each runs in its own process, and they take turns, so that other
load on the machine affects both alike. Exit status 0 if both were measured, 1 if not, 2 if refused.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import msgspec

from bench.compare import markdown
from bench.compare.markdown import case_table
from bench.compare.results import Case, Measures, rows_of
from bench.engine_loop.client import Client, EngineFailedError
from bench.engine_loop.workload import Workload, vocabulary_size
from bench.load.options import positive
from bench.load.processes import read_process
from bench.paced_device.device import Device
from vgate.config import Config, Runtime, local_engines
from vgate.config.model import Model
from vgate.config.schema import Batch, Logging

_ROOT = Path(__file__).parents[2]
_START_TIMEOUT_S = 300.0
_STOP_TIMEOUT_S = 15
_LOG_TAIL_CHARS = 4000
# Prompt and answer must fit into the context in whole KV blocks of any size.
_CONTEXT_ROUNDING = 256


def summarize(workload: Workload, bare: Sequence[Measures], served: Sequence[Measures]) -> Case:
    """Return both sides' figures, and their ratio in each repetition."""
    each = f"{workload.prompt_tokens} prompt and {workload.output_tokens} output tokens"
    return Case(
        name=f"{workload.rounds} x {workload.sequences} sequences of {each}",
        load=msgspec.to_builtins(workload),
        repetitions=len(bare),
        shown=["output_tokens_per_s", "cpu_us_per_token"],
        rows=rows_of({"vgate": served, "EngineCore": bare}, {}),
    )


def table(case: Case) -> str:
    """Return a Markdown table, with the rates of each repetition and the ratio of the medians."""
    rates = [row.measures["output_tokens_per_s"] for row in case.rows]
    names = ["repetition", *(row.contender for row in case.rows)]
    rows = [
        [str(number), *(f"{rate:,.0f}" for rate in pair)]
        for number, pair in enumerate(zip(*(rate.values for rate in rates), strict=True), start=1)
    ]
    ratio = f"tokens/s, ratio of the medians: {rates[0].median / rates[1].median:.3f}"
    return "\n".join([*case_table(case), "", *markdown.table(names, rows), "", ratio])


def runtime(model: str, workload: Workload, run_dir: str) -> Runtime:
    """Return the configuration that both sides run on."""
    longest = workload.prompt_tokens + workload.output_tokens
    context = -(-longest // _CONTEXT_ROUNDING) * _CONTEXT_ROUNDING
    config = Config(
        model=Model(model_id=model, max_model_len=context),
        batch=Batch(max_num_seqs=workload.sequences),
        logging=Logging(level="warning"),
    )
    engines = local_engines(config, run_dir)
    return Runtime(config=config, backend="vllm", run_dir=run_dir, engines=engines)


def _measure(model: str, workload: Workload, repetitions: int) -> Case:
    vocabulary = vocabulary_size(model)
    samples: list[tuple[Measures, Measures]] = []
    encoded = msgspec.json.encode(workload).decode()
    with (
        _served(model, workload) as (served, client, settings),
        _process("bench.engine_loop.bare", settings.run_dir, encoded, answers=True) as bare,
    ):

        def bare_s(seed: int) -> float:
            assert bare.stdin is not None
            bare.stdin.write(f"{seed}\n")
            return float(_answer(bare))

        def served_s(seed: int) -> float:
            prompts = workload.prompts(vocabulary, seed)
            return sum(client.generate(one, workload.output_tokens) for one in prompts)

        _answer(bare)
        client.ready(_START_TIMEOUT_S)
        for seed in range(repetitions + 1):
            of_bare = _measured(bare, workload, partial(bare_s, seed))
            samples.append((of_bare, _measured(served, workload, partial(served_s, seed))))
        client.close()
    # The first repetition warms both up.
    return summarize(workload, *zip(*samples[1:], strict=True))


def _measure_watched(model: str, workload: Workload, repetitions: int, watchers: int) -> Case:
    vocabulary = vocabulary_size(model)
    samples: list[list[Measures]] = [[], []]
    with ExitStack() as stack:
        sides = [stack.enter_context(_served(model, workload)) for _ in samples]
        address = sides[1][2].engines[0].address
        clients = [sides[1][1], *(Client(address) for _ in range(watchers - 1))]
        for client in (sides[0][1], *clients):
            client.ready(_START_TIMEOUT_S)
        for client in clients:
            client.watch()
        for seed in range(repetitions + 1):
            prompts = workload.prompts(vocabulary, seed)
            for side in (0, 1) if seed % 2 else (1, 0):
                process, client, _ = sides[side]
                samples[side].append(_with_reports(process, client, workload, prompts))
                for other in clients[1:]:
                    other.drain()
        for client in (sides[0][1], *clients):
            client.close()
    quiet, watched = (side[1:] for side in samples)
    return Case(
        name=f"{summarize(workload, quiet, watched).name}, {watchers} watching",
        load=msgspec.to_builtins(workload),
        repetitions=repetitions,
        shown=["output_tokens_per_s", "cpu_us_per_token", "reports_per_s", "report_bytes_per_s"],
        rows=rows_of({"watched": watched, "not watched": quiet}, {}),
    )


def _with_reports(
    process: subprocess.Popen[str],
    client: Client,
    workload: Workload,
    prompts: list[list[list[int]]],
) -> Measures:
    reports, size = client.reports, client.report_bytes
    generate = partial(client.generate, output_tokens=workload.output_tokens)
    measures = dict(_measured(process, workload, lambda: sum(map(generate, prompts))))
    seconds = workload.tokens / measures["output_tokens_per_s"]
    return measures | {
        "reports_per_s": (client.reports - reports) / seconds,
        "report_bytes_per_s": (client.report_bytes - size) / seconds,
    }


@contextmanager
def _served(
    model: str, workload: Workload
) -> Iterator[tuple[subprocess.Popen[str], Client, Runtime]]:
    """Start V-Gate's engine; return its process, a client and its settings."""
    with tempfile.TemporaryDirectory(prefix="vgate-loop-") as run_dir:
        settings = runtime(model, workload, run_dir)
        settings.write()
        engine = ("--run-dir", run_dir, "--engine", "0", "--parent", str(os.getpid()))
        with _process("vgate.engine", *engine) as process:
            yield process, Client(settings.engines[0].address), settings


def _measured(
    process: subprocess.Popen[str], workload: Workload, run: Callable[[], float]
) -> Measures:
    before_s = _cpu_s(process)
    seconds = run()
    cpu_s = _cpu_s(process) - before_s
    return {
        "output_tokens_per_s": workload.tokens / seconds,
        "cpu_us_per_token": cpu_s / workload.tokens * 1e6,
    }


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
    if options.device is not None:
        os.environ.update(options.device.environment())
    workload = Workload(**{name: getattr(options, name) for name in Workload.__struct_fields__})
    try:
        if options.watchers:
            case = _measure_watched(
                str(model.resolve()), workload, options.repetitions, options.watchers
            )
        else:
            case = _measure(str(model.resolve()), workload, options.repetitions)
    except EngineFailedError as error:
        print(f"bench.engine_loop: {error}", file=sys.stderr)
        return 1
    print(table(case))
    if options.json:
        encoded = msgspec.json.format(msgspec.json.encode(case), indent=2)
        options.json.write_bytes(encoded + b"\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.engine_loop", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    for name, default in msgspec.to_builtins(Workload()).items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(
            flag, type=positive, default=default, metavar="N", help=f"default {default}"
        )
    parser.add_argument("--repetitions", type=positive, default=7, metavar="N", help="default 7")
    parser.add_argument(
        "--device",
        type=Device.parse,
        metavar="US,US,US",
        help="a simulated device: see `python -m bench.compare --help`",
    )
    parser.add_argument(
        "--watchers",
        type=positive,
        metavar="N",
        help="compare an engine that so many are told the blocks of with one that tells nobody",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the result as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
