"""`python -m bench.engine_loop MODEL_DIR`: tokens/s of the bare EngineCore and of the engine.

Each side has a process of its own; they take turns, so that what else happens on the machine hits
both alike. Exit status 0 if both were measured, 1 if not, 2 if refused.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bench.engine_loop.child import Child, EngineFailedError, Settings, started
from bench.engine_loop.client import Client, ServedError
from bench.engine_loop.summary import Measured, Summary, table
from bench.engine_loop.workload import Workload, vocabulary_size


def main(arguments: Sequence[str]) -> int:
    """Measure, print the table, write the JSON file; return the exit status."""
    options = _parser().parse_args(arguments)
    model: Path = options.model
    if not (model / "config.json").is_file():
        print(f"bench.engine_loop: {model} holds no model", file=sys.stderr)
        return 2
    workload = Workload(
        options.sequences, options.prompt_tokens, options.output_tokens, options.rounds
    )
    try:
        summary = _measure(model.resolve(), workload, options.repetitions)
    except (EngineFailedError, ServedError) as error:
        print(f"bench.engine_loop: {error}", file=sys.stderr)
        return 1
    print(table(summary))
    if options.json:
        encoded = msgspec.json.format(msgspec.json.encode(summary), indent=2)
        options.json.write_bytes(encoded + b"\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    default = Workload()
    parser = argparse.ArgumentParser(prog="python -m bench.engine_loop", description=__doc__)
    parser.add_argument("model", type=Path, metavar="MODEL_DIR")
    parser.add_argument("--sequences", type=_positive, default=default.sequences)
    parser.add_argument("--prompt-tokens", type=_positive, default=default.prompt_tokens)
    parser.add_argument("--output-tokens", type=_positive, default=default.output_tokens)
    parser.add_argument("--rounds", type=_positive, default=default.rounds)
    parser.add_argument("--repetitions", type=_positive, default=7)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result as JSON, too")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _measure(model: Path, workload: Workload, repetitions: int) -> Summary:
    vocabulary = vocabulary_size(model)
    with tempfile.TemporaryDirectory() as directory:
        settings = Settings(str(model), workload, f"ipc://{directory}/engine.sock")
        with started("bare", settings) as bare, started("served", settings) as served:
            client = Client(settings.endpoint)

            def bare_s(seed: int) -> float:
                bare.tell(str(seed))
                return float(bare.hear())

            def served_s(seed: int) -> float:
                prompts = workload.prompts(vocabulary, seed)
                return sum(client.generate(one, workload.output_tokens) for one in prompts)

            pairs = [
                (_measured(bare, bare_s, seed), _measured(served, served_s, seed))
                for seed in range(repetitions + 1)
            ]
            client.close()
    # The first repetition warms both up and doesn't count.
    of_bare, of_served = zip(*pairs[1:], strict=True)
    return Summary.of(str(model), workload, of_bare, of_served)


def _measured(child: Child, run_s: Callable[[int], float], seed: int) -> Measured:
    before_s = child.cpu_s
    seconds = run_s(seed)
    return Measured(seconds, child.cpu_s - before_s)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
