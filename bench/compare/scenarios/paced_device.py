"""vLLM's engine on a device that only keeps time: who keeps it busy, and what its clients see."""

import json
import random
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep

from bench.compare.results import Case, Measures
from bench.compare.run import Run
from bench.compare.service import FailedError, Running, cpu_s
from bench.compare.settings import Settings
from bench.compare.turn import Load, LoadProcess, Sample, sample_of
from bench.load.prompts import WORDS
from bench.paced_device.device import DEVICES, Counters, Device, fitting

# Without vllm-serve-1p: the device's worker is in the engine's process everywhere.
_PEERS = ("vllm-serve", "vllm-rs")
_TOKENS = 128
_CLIENTS = (64, 128, 256, 512)
_ENDLESS_S = 120  # longer than any turn, which is stopped
_START_TIMEOUT_S = 20
_POLL_S = 0.02
_SETTLE_S = 3.5  # two answers of the heavy key
# V-Gate's answers of one length begin evenly spread from then on, vLLM's by being preempted.
_SPREAD_S = 8.0
_PROMPT_TOKENS = 160  # 64 words, without what all prompts begin with and the prefix cache has
_RATE, _LIMIT, _SHARE = "delivered_tokens_per_s", "limit_tokens_per_s", "limit_share"
_CLOSED_SHARE = "closed_loop_share"
_ALL_COST, _GAPS = "cpu_us_per_token.all", "itl_p99_over_p50"
_SHOWN = (_RATE, _LIMIT, _SHARE, _CLOSED_SHARE, "ttft_ms.p50", "ttft_ms.p99", "itl_ms.p50",
          "itl_ms.p99", _GAPS, _ALL_COST, "cpu_us_per_token.frontend", "cpu_us_per_token.engine",
          "cpu_us_per_token.device", "device_busy_share", "sequences_per_step",
          "generator_cpu_share", "others_cpu_share")  # fmt: skip
_OVERFULL_SHOWN = (_RATE, _LIMIT, _SHARE, "sequences_per_step", "preempted_share",
                   "device_busy_share", "ttft_ms.p50", "ttft_ms.p99", "itl_ms.p99")  # fmt: skip
_KEY_SHOWN = ("ttft_ms.p50", "ttft_ms.p99", "ttft_ms.max", "heavy_tokens_per_s")
_KV_CACHE_TOKENS, _LONG_TOKENS = 8192, 512
_SHORTEST, _LONGEST = 16, 1024
_PLACES, _HEAVY_TOKENS, _LIGHT_TOKENS, _TIMES_THE_LOAD = 32, 256, 16, 50
_BUSY_LOOP = "while True: pass"


def paced_device(run: Run) -> None:
    """Streams at each device's pace, and once beside other work."""
    names = ("fast",) if run.quick else ("fast", "very-fast")
    devices = run.setup.devices or {name: DEVICES[name] for name in names}
    clients = run.setup.clients or (_CLIENTS[:1] if run.quick else _CLIENTS)
    peers = _PEERS[:1] if run.quick else _PEERS
    for name, device in devices.items():
        settings = Settings(max_num_seqs=max(clients), device=device)
        with run.running("vgate", *peers, settings=settings) as contenders:
            _warm_up(contenders)
            for count in clients:
                case = _streams(run, f"{name}, {count} clients", device, count, contenders)
                _judge(run, name, count, case)
            if not run.quick and name == next(iter(devices)):
                most = min(256, max(clients))
                with _other_work():
                    title = f"{name}, {most} clients, beside one core's other work"
                    case = _streams(run, title, device, most, contenders)
                run.at_most(6, case.figure("vgate", _GAPS), f"{title}: gap, p99 over p50")


def _streams(
    run: Run, name: str, device: Device, clients: int, contenders: Sequence[Running]
) -> Case:
    load = Load(clients=clients, seconds=_ENDLESS_S, max_tokens=_TOKENS)

    def turn(running: Running) -> Sample:
        sample, did = watched(running, load, contenders, 1.5 if run.quick else 4.0)
        if did.tokens:
            # For the work that was done: a cut load has begun more answers than it has ended.
            prompt = did.prompt_tokens * _TOKENS / did.tokens
            limit = device.limit(clients, prompt, _TOKENS)
            _compare(sample, limit)
            reach = device.closed_loop_limit(clients, prompt, _TOKENS)
            sample.measures[_CLOSED_SHARE] = reach / limit
        return sample

    return run.case(name, load, contenders, _SHOWN, turn)


def _compare(sample: Sample, limit: float) -> None:
    """Put the device's limit into a sample, and what of it was reached."""
    sample.measures[_LIMIT] = limit
    sample.measures[_SHARE] = sample.measures[_RATE] / limit


def _judge(run: Run, device: str, clients: int, case: Case) -> None:
    shares = {64: 0.98, 128: 0.98, 256: 0.96}
    if device == "fast" and clients in shares:
        what = f"{case.name}: share of the device's limit"
        run.at_least(shares[clients], case.figure("vgate", _SHARE), what)
    faster = {256: {"vllm-serve": 3.0, "vllm-rs": 1.5}, 512: {"vllm-serve": 4.0, "vllm-rs": 2.0}}
    if device == "very-fast":
        for peer, least in faster.get(clients, {}).items():
            ratio = case.ratio(peer, _RATE)
            run.at_least(least, ratio, f"{case.name}: tokens/s over {peer}")
        if clients == 256:
            run.at_most(18, case.figure("vgate", _ALL_COST), f"{case.name}: CPU us a token")
            ratio = case.ratio("vllm-rs", _ALL_COST)
            run.at_most(0.5, ratio, f"{case.name}: CPU a token over vllm-rs")
    for percentile in ("p50", "p99") if clients > 64 else ():
        ratio = case.ratio("vllm-rs", f"ttft_ms.{percentile}")
        run.at_most(1, ratio, f"{case.name}: TTFT {percentile} over vllm-rs")
    if clients == 256:
        run.at_most(2.5, case.figure("vgate", _GAPS), f"{case.name}: gap, p99 over p50")


def watched(
    running: Running,
    load: Load,
    contenders: Sequence[Running],
    seconds: float,
    settle_s: float = 0.0,
) -> tuple[Sample, Counters]:
    """Load a contender for that long; return what was measured, and what its device did.

    What it does in its first `settle_s` seconds counts in no rate and no share. Then the load is
    cut off: how the last answers end, with fewer and fewer clients, doesn't count.
    """
    path = running.service.counters
    assert path is not None
    others = [one for one in contenders if one is not running]
    before, disturbing_s = Counters.read(path), sum(cpu_s(one.processes) for one in others)
    loading = LoadProcess(running, load)
    try:
        _await_tokens(path, before.tokens)
        if settle_s:
            sleep(settle_s)
            before = Counters.read(path)
        began = monotonic()
        sleep(seconds)
        did, took_s = Counters.read(path).since(before), monotonic() - began
        loading.stop()
        summary = loading.result()
    finally:
        loading.close()
    sample = sample_of(summary, stopped=True)
    measures = sample.measures
    disturbing_s = sum(cpu_s(one.processes) for one in others) - disturbing_s
    measures["others_cpu_share"] = disturbing_s / took_s
    measures[_ALL_COST] = sum(one.cpu_us_per_output_token or 0.0 for one in summary.processes)
    # The clients' count has no beginning but the load's.
    made = did.tokens / took_s
    measures[_RATE] = made if settle_s else summary.delivered_tokens_per_s
    if made < measures[_RATE]:
        correct(measures, made)
    if did.tokens and did.started:
        measures["cpu_us_per_token.device"] = did.own_cpu_us / did.tokens
        measures["device_busy_share"] = did.busy_us / took_s / 1e6
        measures["sequences_per_step"] = did.tokens / did.steps
        measures["preempted_share"] = did.resumed / did.started
    if measures.get("itl_ms.p50"):
        measures[_GAPS] = measures["itl_ms.p99"] / measures["itl_ms.p50"]
    return sample, did


def correct(measures: Measures, made: float) -> None:
    """Let no more tokens/s be delivered than were made, and correct what a token cost.

    Unfinished answers count by their chunks, as if these were as long as in complete ones. With a
    server that lags, which joins many tokens in the last chunks of an answer, that is too much.
    """
    over = measures[_RATE] / made
    measures[_RATE] = made
    for name in [name for name in measures if name.startswith("cpu_us_per_token.")]:
        measures[name] *= over


def _await_tokens(path: Path, before: int) -> None:
    deadline = monotonic() + _START_TIMEOUT_S
    while Counters.read(path).tokens == before:
        if monotonic() > deadline:
            raise FailedError("the load did not reach the device")
        sleep(_POLL_S)


def _warm_up(contenders: Sequence[Running]) -> None:
    """Let each serve some answers first: none is measured with its code unread."""
    for running in contenders:
        LoadProcess(running, Load(clients=16, requests=64, max_tokens=16)).result()


@contextmanager
def _other_work() -> Iterator[None]:
    """Keep another process busy, which takes as much of one core as the kernel gives it."""
    process = subprocess.Popen([sys.executable, "-c", _BUSY_LOOP])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def paced_overfull(run: Run) -> None:
    """More clients than a KV cache has room for: who runs how many, and loses how much."""
    # As on a GPU, the next step is scheduled while one computes: what is compared is who fills the
    # cache better, not how long each takes between two steps.
    device = Device(base_us=6000, sequence_us=20, prompt_token_us=30)
    settings = Settings(max_num_seqs=64, device=device, kv_cache_tokens=_KV_CACHE_TOKENS)
    rates = {}
    with run.running("vgate", "vllm-serve", settings=settings) as contenders:
        _warm_up(contenders)
        for clients in (24,) if run.quick else (12, 24, 48):
            load = Load(clients=clients, seconds=_ENDLESS_S, max_tokens=_LONG_TOKENS)
            name = f"{clients} clients, {_LONG_TOKENS} tokens"
            case = _overfull(run, name, device, load, [_LONG_TOKENS], contenders)
            rates[clients] = case.figure("vgate", _RATE)
        if not run.quick:
            outputs = _lengths(512)
            path = run.setup.work / "mixed-lengths.jsonl"
            _write_prompts(path, outputs)
            load = Load(clients=24, seconds=_ENDLESS_S, prompts=str(path))
            name = f"24 clients, {_SHORTEST} to {_LONGEST} tokens"
            _overfull(run, name, device, load, outputs, contenders)
    few, many = rates.get(24), rates.get(48)
    if few and many:
        run.at_least(0.95, min(few, many) / max(few, many), "24 and 48 clients: less over more")


def _overfull(
    run: Run,
    name: str,
    device: Device,
    load: Load,
    outputs: Sequence[int],
    contenders: Sequence[Running],
) -> Case:
    prompt = _PROMPT_TOKENS + 16  # the common beginning takes room once for all, which is little
    assert load.clients is not None
    sequences = min(load.clients, fitting(_KV_CACHE_TOKENS, prompt, outputs))
    limit = device.limit(sequences, _PROMPT_TOKENS, sum(outputs) / len(outputs))

    def turn(running: Running) -> Sample:
        settle_s = 1.0 if run.quick else _SPREAD_S
        sample, _ = watched(running, load, contenders, 5.0 if run.quick else 9.0, settle_s)
        _compare(sample, limit)
        return sample

    case = run.case(name, load, contenders, _OVERFULL_SHOWN, turn)
    run.at_least(1.02, case.ratio("vllm-serve", _RATE), f"{name}: tokens/s over vllm-serve")
    run.at_most(0.02, case.figure("vgate", "preempted_share"), f"{name}: preempted sequences")
    return case


def _lengths(count: int) -> list[int]:
    """Return that many lengths, each octave as likely as the others, always in one order."""
    ratio = _LONGEST / _SHORTEST
    found = [round(_SHORTEST * ratio ** (place / (count - 1))) for place in range(count)]
    random.Random(count).shuffle(found)
    return found


def _write_prompts(path: Path, outputs: Sequence[int]) -> None:
    """Write a prompt of 64 words for each length of an answer."""
    choose = random.Random()  # others each time, so that no prefix cache has them
    with path.open("w", encoding="utf-8") as file:
        for length in outputs:
            line = {"prompt": " ".join(choose.choices(WORDS, k=64)), "max_tokens": length}
            file.write(json.dumps(line) + "\n")


def paced_keys(run: Run) -> None:
    """A key with little to ask, alone and beside one that would take all places."""
    device = DEVICES["slow"]
    limit = device.limit(_PLACES, _PROMPT_TOKENS, _HEAVY_TOKENS)
    rate = limit / _TIMES_THE_LOAD / _LIGHT_TOKENS
    light = Load(rate=rate, seconds=5 if run.quick else 10, max_tokens=_LIGHT_TOKENS)
    heavy = Load(clients=4 * _PLACES, seconds=600, max_tokens=_HEAVY_TOKENS)

    def alone(running: Running) -> Sample:
        return sample_of(LoadProcess(running, light, running.service.other_api_key).result())

    def beside(running: Running) -> Sample:
        loading = LoadProcess(running, heavy)
        try:
            sleep(_SETTLE_S)
            sample = alone(running)
            loading.stop()
            others = sample_of(loading.result(), stopped=True)
        finally:
            loading.close()
        sample.measures["heavy_tokens_per_s"] = others.measures["output_tokens_per_s"]
        sample.failures.extend(others.failures)
        return sample

    settings = Settings(max_num_seqs=_PLACES, device=device)
    with run.running("vgate", "vllm-serve", settings=settings) as contenders:
        _warm_up(contenders)
        idle = run.case("the light key alone", light, contenders, _KEY_SHOWN, alone)
        name = f"the light key beside {_TIMES_THE_LOAD} times its load"
        loaded = run.case(name, light, contenders, _KEY_SHOWN, beside)
    times = [case.figure("vgate", "ttft_ms.p99") for case in (idle, loaded)]
    if times[0] and times[1]:
        step_ms = (device.base_us + device.sequence_us * _PLACES) / 1000
        limit_ms = 2 * times[0] + step_ms
        run.at_most(1, times[1] / limit_ms, "TTFT p99 over twice the idle one and a step")
