"""`python -m bench.gpu`: V-Gate against `vllm serve` on a model of usual size, with a GPU.

The model has the shape of Qwen2.5-1.5B and dummy weights: nothing is downloaded, times are those
of a real one, and what it says means nothing. Besides tokens/s it reports how long the device
stood idle between steps. `--device cpu --shape tiny` tries all of it without a GPU.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec

from bench.compare.clock import Clock
from bench.compare.contenders import Settings, Setup
from bench.compare.load import Load, Sample, take_turn
from bench.compare.markdown import document
from bench.compare.models import Models
from bench.compare.peers import Peers
from bench.compare.progress import Progress
from bench.compare.results import Comparison, ScenarioResult
from bench.compare.run import host_of, versions_of
from bench.compare.service import ROOT, Running
from bench.compare.stage import Plan, Stage, ratio
from bench.gpu_gaps import gaps_of, read_steps

CONTENDERS = ("vgate", "vllm-serve")
_STEPS_HOOK = ROOT / "bench" / "engine_steps"
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
# Tokens/s over those of vLLM's own server that should be reached, by clients.
_TARGETS = {1: 1.0, 256: 1.1}


def main(arguments: Sequence[str]) -> int:
    """Measure, print the tables, write both files; return the exit status."""
    options = _parser().parse_args(arguments)
    clock = Clock(options.seconds)
    progress = Progress(clock)
    plan = Plan(repetitions=options.repetitions, total_s=options.seconds)
    started_at = datetime.now(UTC).isoformat(timespec="seconds")
    with tempfile.TemporaryDirectory(prefix="vgate-gpu-") as directory:
        work = Path(directory)
        models = Models(work)
        peers = Peers(work / "peers", progress, may_install=False)
        setup = Setup(
            models=models,
            peers=peers,
            work=work,
            device=options.device,
            model=models.tiny() if options.shape == "tiny" else dummy_model(models, work / "model"),
            engine_arguments=_engine_arguments(options),
            environment={name: _recording(work / f"steps-{name}") for name in CONTENDERS},
        )
        stage = Stage(plan, setup, clock, progress)
        stage.result = ScenarioResult(name="gpu", title=f"{options.shape} on {options.device}")
        _measure(stage, options)
    comparison = Comparison(
        started_at=started_at,
        seconds=round(clock.elapsed_s, 1),
        mode=options.device,
        repetitions=options.repetitions,
        host=host_of(),
        versions=versions_of(peers),
        skipped=stage.skipped,
        scenarios=[stage.result],
        starts=stage.starts,
    )
    text = document(comparison)
    encoded = msgspec.json.format(msgspec.json.encode(comparison), indent=1)
    options.out.write_bytes(encoded + b"\n")
    options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    return 1 if comparison.failures or comparison.skipped else 0


def _measure(stage: Stage, options: argparse.Namespace) -> None:
    settings = Settings(max_num_seqs=max(options.clients), max_model_len=4096)
    with stage.running(*CONTENDERS, settings=settings) as contenders:
        for clients in options.clients:
            load = Load(
                clients=clients,
                requests=max(options.rounds * clients, 4),
                output_tokens=options.tokens,
                prompt_tokens=options.prompt_tokens,
            )

            def turn(running: Running, load: Load = load) -> Sample:
                return _turn(stage, running, load)

            warm = msgspec.structs.replace(load, requests=clients, output_tokens=8)
            for running in contenders:
                take_turn(running, warm)
            name = f"{clients} client{'s' if clients > 1 else ''}, {options.tokens} tokens"
            case = stage.measure(name, load.described(), contenders, _SHOWN, turn)
            if clients in _TARGETS:
                stage.target(
                    f"{name}: tokens/s over vllm-serve",
                    ratio(case, "vllm-serve", "output_tokens_per_s"),
                    at_least=_TARGETS[clients],
                )


def _turn(stage: Stage, running: Running, load: Load) -> Sample:
    since_s = monotonic()
    sample = take_turn(running, load)
    steps = read_steps(stage.setup.work / f"steps-{running.name}", since_s, monotonic())
    if gaps := gaps_of(steps):
        sample.measures.update(gaps.measures())
    return sample


def _recording(path: Path) -> dict[str, str | None]:
    """Return the variables that make a contender's engine record its steps."""
    known = os.environ.get("PYTHONPATH")
    search = f"{_STEPS_HOOK}:{known}" if known else str(_STEPS_HOOK)
    return {"ENGINE_STEPS_FILE": str(path), "PYTHONPATH": search}


def dummy_model(models: Models, directory: Path) -> Path:
    """Write a model without weights: Qwen2.5-1.5B's shape, the large vocabulary."""
    source = models.large_vocabulary()
    directory.mkdir(parents=True)
    for path in source.iterdir():
        (directory / path.name).write_bytes(path.read_bytes())
    config = msgspec.json.decode((source / "config.json").read_bytes(), type=dict[str, Any])
    (directory / "config.json").write_bytes(msgspec.json.encode(config | _QWEN_1_5B))
    return directory


def _engine_arguments(options: argparse.Namespace) -> dict[str, Any]:
    arguments: dict[str, Any] = {"load_format": "dummy", "enable_prefix_caching": False}
    if options.device == "cuda":
        # Both engines are on the device at once, one of them idle.
        arguments["gpu_memory_utilization"] = options.memory
    return arguments


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.gpu", description=__doc__)
    add = parser.add_argument
    add("--device", choices=("cuda", "cpu"), default="cuda")
    add("--shape", choices=("qwen2.5-1.5b", "tiny"), default="qwen2.5-1.5b")
    add("--clients", type=_positive, nargs="+", default=[1, 16, 64, 256], metavar="N")
    add("--rounds", type=_positive, default=2, metavar="N", help="requests of each client")
    add("--tokens", type=_positive, default=256, metavar="N", help="of an answer")
    add("--prompt-tokens", type=_positive, default=256, metavar="N")
    add("--repetitions", type=_positive, default=3, metavar="N")
    add("--seconds", type=_positive, default=_TOTAL_S, metavar="S", help="all may take")
    add("--memory", type=float, default=0.4, metavar="SHARE", help="of the GPU, for each engine")
    add("--out", type=Path, default=Path("gpu.json"), metavar="FILE.json")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
