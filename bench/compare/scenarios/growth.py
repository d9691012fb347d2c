"""How cost grows with the number of streams and the length of prompts, and whom it affects."""

import json
import random
import secrets
from pathlib import Path

from bench.compare.run import Run
from bench.compare.service import Running
from bench.compare.settings import Settings
from bench.compare.turn import Load, LoadProcess, Sample, sample_of
from bench.load.prompts import WORDS

_OURS = "vgate-dry-run"
_FEW, _MANY = 128, 1024
_TURNS = (10, 30, 100)
_WORDS_PER_TURN = 40
_PER_TOKEN = "cpu_us_per_token.frontend"
_PER_REQUEST = "cpu_us_per_request.frontend"
_GAPS_SHOWN = ("itl_ms.p50", "itl_ms.p90", "itl_ms.p99", "itl_ms.max", "ttft_ms.p99", _PER_TOKEN,
               "generator_cpu_share")  # fmt: skip
_LONG_TOKENS = 30_000
_OPEN_STEP_MS = 100


def growth(run: Run) -> None:
    """CPU per token by the number of streams, CPU per request by the turns of a conversation."""
    shown = ("output_tokens_per_s", "itl_ms.p99", _PER_TOKEN, f"{_PER_TOKEN}.user",
             f"{_PER_TOKEN}.kernel", "generator_cpu_share")  # fmt: skip
    settings = Settings(step_ms=50, max_num_seqs=4096, workers=1)
    costs = []
    with run.running(_OURS, settings=settings) as contenders:
        for streams in (_FEW, _MANY):
            tokens = 32 if run.quick else 64
            load = Load(clients=streams, requests=streams, max_tokens=tokens)
            case = run.case(f"{streams} streams", load, contenders, shown)
            costs.append(case.figure(_OURS, _PER_TOKEN))
    few, many = costs
    if few and many:
        run.at_most(1.0, many / few, f"CPU per token at {_MANY} streams over {_FEW}")
    _conversations(run)


def _conversations(run: Run) -> None:
    shown = ("requests_per_s", "e2e_ms.p50", "e2e_ms.p99", _PER_REQUEST)
    count = 40 if run.quick else 200
    costs = []
    settings = Settings(max_model_len=65_536, workers=1)
    with run.running(_OURS, settings=settings) as contenders:
        for turns in _TURNS:
            path = run.setup.work / f"conversations-{turns}.jsonl"
            write_conversations(path, turns=turns, count=count, seed=secrets.randbits(32))
            load = Load(clients=4, requests=count, max_tokens=1, stream=False,
                        prompts=str(path), warmup=4)  # fmt: skip
            case = run.case(f"conversations of {turns} turns", load, contenders, shown)
            costs.append(case.figure(_OURS, _PER_REQUEST))
    first, middle, last = costs
    if first and middle and last:
        # If cost is linear, a turn costs as much from 30 to 100 as from 10 to 30.
        slope = (middle - first) / (_TURNS[1] - _TURNS[0])
        later = (last - middle) / (_TURNS[2] - _TURNS[1])
        run.note(f"A turn costs {slope:.3g} us from 10 to 30, {later:.3g} us from 30 to 100.")
        what = "cost of a turn from 30 to 100 over that from 10 to 30"
        run.at_most(1.25, later / slope if slope else None, what)


def write_conversations(path: Path, *, turns: int, count: int, seed: int) -> None:
    """Write different conversations of that many messages, the last from the user."""
    choose = random.Random(seed)

    def message(number: int) -> dict[str, str]:
        text = " ".join(choose.choices(WORDS, k=_WORDS_PER_TURN))
        return {"role": "assistant" if number % 2 else "user", "content": text}

    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            messages = [message(number) for number in range(turns - 1 + turns % 2)]
            file.write(json.dumps({"messages": messages}) + "\n")


def long_prompt(run: Run) -> None:
    """Prompts of 30,000 tokens, one after the other, beside running streams."""
    streams = Load(clients=200, requests=200, max_tokens=100 if run.quick else 200, warmup=16)
    long = Load(clients=1, seconds=600, max_tokens=1, prompt_tokens=_LONG_TOKENS)

    def beside(running: Running) -> Sample:
        disturbing = LoadProcess(running, long)
        try:
            sample = sample_of(LoadProcess(running, streams).result())
            disturbing.stop()
            other = sample_of(disturbing.result(), stopped=True)
        finally:
            disturbing.close()
        sample.measures["long_prompts_per_s"] = other.measures["requests_per_s"]
        sample.failures.extend(other.failures)
        if not other.measures["requests_per_s"]:
            sample.failures.append("no long prompt was answered meanwhile")
        return sample

    settings = Settings(step_ms=20, max_num_seqs=1024, max_model_len=65_536, workers=1)
    with run.running(_OURS, settings=settings) as contenders:
        alone = run.case("200 streams alone", streams, contenders, _GAPS_SHOWN)
        name = f"200 streams beside prompts of {_LONG_TOKENS} tokens"
        both = run.case(name, streams, contenders, (*_GAPS_SHOWN, "long_prompts_per_s"), beside)
    before, after = (case.figure(_OURS, "itl_ms.p99") for case in (alone, both))
    if before is not None and after is not None:
        run.at_most(10, after - before, "added to the p99 gap by long prompts, ms")


def open_streams(run: Run) -> None:
    """Two thousand streams on one worker: each must be whole, and none may wait long."""
    streams, tokens = (500, 20) if run.quick else (2000, 40)
    settings = Settings(step_ms=_OPEN_STEP_MS, max_num_seqs=4096, workers=1)
    load = Load(clients=streams, requests=streams, max_tokens=tokens)
    with run.running(_OURS, settings=settings) as contenders:
        name = f"{streams} streams, {_OPEN_STEP_MS} ms steps"
        case = run.case(name, load, contenders, _GAPS_SHOWN)
    gap = case.figure(_OURS, "itl_ms.p99")
    if gap is not None:
        run.at_most(_OPEN_STEP_MS, gap - _OPEN_STEP_MS, "added to the p99 gap, ms")
