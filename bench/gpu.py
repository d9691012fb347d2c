"""Measures V-Gate and `vllm serve` on a model of usual size, with a GPU.

The model has the shape of Qwen2.5-1.5B and dummy weights: nothing is downloaded, times are those
of a real model, and its text is meaningless. In addition to tokens/s it reports how long the device
was idle between steps. `--device cpu --shape tiny` tries all of it without a GPU.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from bench import hooks
from bench.compare.models import Models
from bench.compare.results import Measures
from bench.compare.run import Run
from bench.compare.service import Running
from bench.compare.settings import Settings, Setup
from bench.compare.turn import Load, Sample, take_turn
from bench.load.options import positive

CONTENDERS = ("vgate", "vllm-serve")
_TOTAL_S = 1500
_SHOWN = ("output_tokens_per_s", "requests_per_s", "ttft_ms.p50", "ttft_ms.p99", "tpot_ms.p50",
          "itl_ms.p99", "idle_share", "idle_gap_us.p50", "idle_gap_us.p99", "steps",
          "cpu_us_per_token.frontend", "cpu_us_per_token.engine")  # fmt: skip
# Qwen2.5-1.5B-Instruct's config.json; the vocabulary is padded as there.
_QWEN_1_5B: dict[str, Any] = {
    "hidden_size": 1536,
    "intermediate_size": 8960,
    "num_attention_heads": 12,
    "num_hidden_layers": 28,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "max_window_layers": 28,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "vocab_size": 151936,
}
# V-Gate's tokens/s over those of vLLM's own server that should be reached, by clients.
_TARGETS = {1: 1.0, 256: 1.1}


def main(arguments: Sequence[str]) -> int:
    """Measure, print the tables, write both files; return the exit status."""
    options = _parser().parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="vgate-gpu-") as directory:
        work = Path(directory)
        models = Models(work)
        setup = Setup(
            models=models,
            work=work,
            device=options.device,
            model=models.tiny() if options.shape == "tiny" else dummy_model(models, work / "model"),
            engine_arguments=_engine_arguments(options),
            environment={name: _recording(work / f"steps-{name}") for name in CONTENDERS},
        )
        run = Run(setup, repetitions=options.repetitions, total_s=options.seconds)
        run.comparison.mode = options.device
        run.begin("gpu", f"{options.shape} on {options.device}")
        _measure(run, options)
    run.finish(options.out)
    return 1 if run.comparison.failures or run.comparison.skipped else 0


def _measure(run: Run, options: argparse.Namespace) -> None:
    def turn(running: Running) -> Sample:
        since_s = monotonic()
        sample = take_turn(running, load)
        steps = read_steps(run.setup.work / f"steps-{running.name}", since_s, monotonic())
        sample.measures.update(idle_measures(steps))
        return sample

    settings = Settings(max_num_seqs=max(options.clients), max_model_len=4096)
    with run.running(*CONTENDERS, settings=settings) as contenders:
        for clients in options.clients:
            load = Load(
                clients=clients,
                requests=max(options.rounds * clients, 4),
                max_tokens=options.tokens,
                prompt_tokens=options.prompt_tokens,
            )
            warm = msgspec.structs.replace(load, requests=clients, max_tokens=8)
            for running in contenders:
                take_turn(running, warm)
            name = f"{clients} client{'s' if clients > 1 else ''}, {options.tokens} tokens"
            case = run.case(name, load, contenders, _SHOWN, turn)
            if clients in _TARGETS:
                ratio = case.ratio("vllm-serve", "output_tokens_per_s")
                run.at_least(_TARGETS[clients], ratio, f"{name}: tokens/s over vllm-serve")


def read_steps(path: Path, since_s: float, until_s: float) -> list[tuple[float, float]]:
    """Return starts and ends within a span of the monotonic clock, from all processes' files."""
    found = []
    for file in path.parent.glob(f"{path.name}.*"):
        for line in file.read_text().splitlines():
            start, _, end = line.partition(" ")
            # The last line may be incomplete.
            if end.count(".") == 1 and since_s <= float(start) and float(end) <= until_s:
                found.append((float(start), float(end)))
    return sorted(found)


def idle_measures(steps: Sequence[tuple[float, float]]) -> Measures:
    """Return how long the device was idle between steps, which are in order of their start.

    The share is that of the time from the first step to the last. The percentiles are those of all
    gaps, also of length zero. There are no measures of fewer than two steps.
    """
    if len(steps) < 2:
        return {}
    began, ended = steps[0]
    gaps = []
    for start, end in steps[1:]:
        # Steps that overlap, such as work that was queued ahead, leave no gap.
        gaps.append(max(0.0, start - ended))
        ended = max(ended, end)
    gaps.sort()
    return {
        "steps": float(len(steps)),
        "idle_share": sum(gaps) / (ended - began),
        "idle_gap_us.p50": gaps[len(gaps) // 2] * 1e6,
        "idle_gap_us.p99": gaps[min(len(gaps) - 1, int(len(gaps) * 0.99))] * 1e6,
    }


def _recording(path: Path) -> dict[str, str | None]:
    """Return the variables with which a contender's engine records its steps."""
    return {**hooks.environment({"ENGINE_STEPS_FILE": str(path)})}


def dummy_model(models: Models, directory: Path) -> Path:
    """Write a model without weights: Qwen2.5-1.5B's shape, the large vocabulary."""
    shutil.copytree(models.large_vocabulary(), directory)
    config = directory / "config.json"
    config.write_text(json.dumps(json.loads(config.read_bytes()) | _QWEN_1_5B))
    return directory


def _engine_arguments(options: argparse.Namespace) -> dict[str, Any]:
    arguments: dict[str, Any] = {"load_format": "dummy", "enable_prefix_caching": False}
    if options.device == "cuda":
        # Both engines are on the device at the same time, one of them idle.
        arguments["gpu_memory_utilization"] = options.memory
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--shape", choices=("qwen2.5-1.5b", "tiny"), default="qwen2.5-1.5b")
    add("--clients", type=positive, nargs="+", default=[1, 16, 64, 256], metavar="N")
    add("--rounds", type=positive, default=2, metavar="N", help="requests of each client")
    add("--tokens", type=positive, default=256, metavar="N", help="of an answer")
    add("--prompt-tokens", type=positive, default=256, metavar="N")
    add("--repetitions", type=positive, default=3, metavar="N")
    add("--seconds", type=positive, default=_TOTAL_S, metavar="S", help="limit for all")
    add("--memory", type=float, default=0.4, metavar="SHARE", help="of the GPU, for each engine")
    add("--out", type=Path, default=Path("gpu.json"), metavar="FILE.json")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
