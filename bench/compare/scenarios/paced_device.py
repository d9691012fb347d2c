"""vLLM's engine on a device that only keeps time: who keeps it busy, and what its clients see."""

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bench.compare.results import Case
from bench.compare.run import Run
from bench.compare.service import Running
from bench.compare.settings import Settings
from bench.compare.turn import Load, LoadProcess, Sample, sample_of, take_turn
from bench.load.prompts import WORDS
from bench.paced_device.device import DEVICES, Counters, Device, fitting

_PEERS = ("vllm-serve", "vllm-serve-1p", "vllm-rs")
_TOKENS = 128
_CLIENTS = (64, 128, 256, 512)
_TURN_S = 3.0  # of a turn, at the device's limit
_PROMPT_TOKENS = 160  # 64 words, without what all prompts begin with and the prefix cache has
_COSTS = tuple(f"cpu_us_per_token.{kind}" for kind in ("frontend", "engine", "launcher", "other"))
_ALL_COST, _SHARE, _GAPS = "cpu_us_per_token.all", "limit_share", "itl_p99_over_p50"
_SHOWN = ("output_tokens_per_s", "limit_tokens_per_s", _SHARE, "ttft_ms.p50", "ttft_ms.p99",
          "itl_ms.p50", "itl_ms.p99", _GAPS, _ALL_COST, *_COSTS[:2], "cpu_us_per_token.device",
          "sequences_per_step", "generator_cpu_share")  # fmt: skip
_OVERFULL_SHOWN = ("output_tokens_per_s", "limit_tokens_per_s", _SHARE, "sequences_per_step",
                   "preempted_share", "ttft_ms.p50", "ttft_ms.p99", "itl_ms.p99")  # fmt: skip
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
    peers = _PEERS[1:2] if run.quick else _PEERS
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
    rounds = _TURN_S * device.limit(clients, _PROMPT_TOKENS, _TOKENS) / (clients * _TOKENS)
    requests = clients * max(2, round(rounds / (2 if run.quick else 1)))
    load = Load(clients=clients, requests=requests, max_tokens=_TOKENS)
    turn = _counted(device, load, clients, contenders)
    return run.case(name, load, contenders, _SHOWN, turn)


def _judge(run: Run, device: str, clients: int, case: Case) -> None:
    shares = {64: 0.98, 128: 0.98, 256: 0.96}
    if device == "fast" and clients in shares:
        what = f"{case.name}: share of the device's limit"
        run.at_least(shares[clients], case.figure("vgate", _SHARE), what)
    faster = {256: {"vllm-serve": 3.0, "vllm-rs": 1.5}, 512: {"vllm-serve": 4.0, "vllm-rs": 2.0}}
    if device == "very-fast":
        for peer, least in faster.get(clients, {}).items():
            ratio = case.ratio(peer, "output_tokens_per_s")
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


def _counted(
    device: Device,
    load: Load,
    sequences: float,
    contenders: Sequence[Running],
    prompt_tokens: float | None = None,
    output_tokens: float = _TOKENS,
) -> Callable[[Running], Sample]:
    """Return a turn that also tells what the device did, and the most that it could have done.

    Args:
        device: The contenders' device.
        load: What they are sent.
        sequences: The most that can be in each step.
        contenders: All that run.
        prompt_tokens: Computed for each answer; by default what was.
        output_tokens: Of an answer.
    """

    def turn(running: Running) -> Sample:
        path = running.service.counters
        assert path is not None
        before = Counters.read(path)
        others = [one for one in contenders if one is not running]
        sample = take_turn(running, load, others)
        did = Counters.read(path).since(before)
        measures = sample.measures
        if not did.started or not did.tokens:
            return sample
        computed = did.prompt_tokens / did.started if prompt_tokens is None else prompt_tokens
        limit = device.limit(sequences, computed, output_tokens)
        measures["limit_tokens_per_s"] = limit
        measures[_SHARE] = measures["output_tokens_per_s"] / limit
        measures["preempted_share"] = did.resumed / did.started
        measures["sequences_per_step"] = did.tokens / did.steps
        measures["cpu_us_per_token.device"] = did.own_cpu_us / did.tokens
        measures[_ALL_COST] = sum(measures.get(cost, 0.0) for cost in _COSTS)
        if measures.get("itl_ms.p50"):
            measures[_GAPS] = measures["itl_ms.p99"] / measures["itl_ms.p50"]
        return sample

    return turn


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
    device = Device(base_us=6000, sequence_us=20, prompt_token_us=30, overlap=False)
    settings = Settings(max_num_seqs=64, device=device, kv_cache_tokens=_KV_CACHE_TOKENS)
    with run.running("vgate", "vllm-serve", settings=settings) as contenders:
        _warm_up(contenders)
        for clients in (24,) if run.quick else (12, 24, 48):
            requests = clients if run.quick else max(36, 2 * clients)
            load = Load(clients=clients, requests=requests, max_tokens=_LONG_TOKENS)
            name = f"{clients} clients, {_LONG_TOKENS} tokens"
            _overfull(run, name, device, load, [_LONG_TOKENS], contenders)
        if not run.quick:
            outputs = _lengths(96)
            path = run.setup.work / "mixed-lengths.jsonl"
            _write_prompts(path, outputs)
            load = Load(clients=24, requests=len(outputs), prompts=str(path))
            name = f"24 clients, {_SHORTEST} to {_LONGEST} tokens"
            _overfull(run, name, device, load, outputs, contenders)


def _overfull(
    run: Run,
    name: str,
    device: Device,
    load: Load,
    outputs: Sequence[int],
    contenders: Sequence[Running],
) -> None:
    prompt = _PROMPT_TOKENS + 16  # the common beginning takes room once for all, which is little
    assert load.clients is not None
    sequences = min(load.clients, fitting(_KV_CACHE_TOKENS, prompt, outputs))
    mean = sum(outputs) / len(outputs)
    turn = _counted(device, load, sequences, contenders, _PROMPT_TOKENS, mean)
    case = run.case(name, load, contenders, _OVERFULL_SHOWN, turn)
    ratio = case.ratio("vllm-serve", "output_tokens_per_s")
    run.at_least(1.02, ratio, f"{name}: tokens/s over vllm-serve")
    run.at_most(0.02, case.figure("vgate", "preempted_share"), f"{name}: preempted sequences")


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
    light = Load(rate=rate, seconds=5 if run.quick else 15, max_tokens=_LIGHT_TOKENS)
    heavy = Load(clients=4 * _PLACES, seconds=600, max_tokens=_HEAVY_TOKENS)

    def alone(running: Running) -> Sample:
        return sample_of(LoadProcess(running, light, running.service.other_api_key).result())

    def beside(running: Running) -> Sample:
        loading = LoadProcess(running, heavy)
        try:
            settled = Load(clients=1, requests=2, max_tokens=_HEAVY_TOKENS)
            LoadProcess(running, settled).result()
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
