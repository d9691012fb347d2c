"""How cost grows: with the number of streams, and with the length of a conversation."""

import json
import random
import secrets
from pathlib import Path

from bench.compare.contenders import Settings
from bench.compare.load import Load
from bench.compare.stage import Stage, figure
from bench.load.prompts import WORDS

_STEP_MS = 50
_FEW, _MANY = 128, 1024
_TURNS = (10, 30, 100)
_WORDS_PER_TURN = 40
_PER_TOKEN = "cpu_us_per_token.frontend"
_PER_REQUEST = "cpu_us_per_request.frontend"
# A straight line would give 1; the rest is what short runs differ by.
_STRAIGHT = 1.25


def growth(stage: Stage) -> None:
    """Measure both."""
    settings = Settings(step_ms=_STEP_MS, max_num_seqs=4096, workers=1)
    with stage.running("vgate-dry-run", settings=settings) as contenders:
        costs = []
        for streams in (_FEW, _MANY):
            load = Load(clients=streams, requests=streams, output_tokens=stage.plan.pick(32, 64))
            shown = ("output_tokens_per_s", "itl_ms.p99", _PER_TOKEN, f"{_PER_TOKEN}.user",
                     f"{_PER_TOKEN}.kernel", "generator_cpu_share")  # fmt: skip
            case = stage.case(f"{streams} streams", load, contenders, shown)
            costs.append(figure(case, "vgate-dry-run", _PER_TOKEN))
    few, many = costs
    if few and many:
        what = f"CPU per token at {_MANY} streams over {_FEW}"
        stage.target(what, many / few, at_most=1.0)
    _conversations(stage)


def _conversations(stage: Stage) -> None:
    settings = Settings(step_ms=0, max_num_seqs=64, max_model_len=65_536, workers=1)
    costs: dict[int, float] = {}
    with stage.running("vgate-dry-run", settings=settings) as contenders:
        for turns in _TURNS:
            count = stage.plan.pick(40, 200)
            path = stage.setup.work / f"conversations-{turns}.jsonl"
            write_conversations(path, turns=turns, count=count, seed=secrets.randbits(32))
            load = Load(clients=4, requests=count, output_tokens=1, stream=False,
                        prompts=str(path), warmup=4)  # fmt: skip
            shown = ("requests_per_s", "e2e_ms.p50", "e2e_ms.p99", _PER_REQUEST)
            case = stage.case(f"conversations of {turns} turns", load, contenders, shown)
            cost = figure(case, "vgate-dry-run", _PER_REQUEST)
            if cost is not None:
                costs[turns] = cost
    if len(costs) == len(_TURNS):
        first, middle, last = (costs[turns] for turns in _TURNS)
        # On a straight line the cost of a turn between 30 and 100 is that between 10 and 30.
        slope = (middle - first) / (_TURNS[1] - _TURNS[0])
        later = (last - middle) / (_TURNS[2] - _TURNS[1])
        stage.note(f"A turn costs {slope:.3g} us from 10 to 30, {later:.3g} us from 30 to 100.")
        stage.target(
            "cost of a turn from 30 to 100 over that from 10 to 30",
            later / slope if slope else None,
            at_most=_STRAIGHT,
        )


def write_conversations(path: Path, *, turns: int, count: int, seed: int) -> None:
    """Write conversations of that many messages; each begins differently."""
    choose = random.Random(seed)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            messages = [
                {
                    "role": "user" if number % 2 == 0 else "assistant",
                    "content": " ".join(choose.choices(WORDS, k=_WORDS_PER_TURN)),
                }
                # The last word is the user's.
                for number in range(turns - 1 + turns % 2)
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
