"""The frontends alone: with a simulated engine, what is measured is the gateway's own cost."""

import json
from collections.abc import Sequence

import msgspec

from bench.compare.constant_load import (
    WrongAnswerError,
    constant_load,
    first_answer,
    request_bytes,
)
from bench.compare.contenders import CONTENDERS
from bench.compare.results import Measures
from bench.compare.run import Run
from bench.compare.service import FailedError, Running
from bench.compare.settings import Settings
from bench.compare.turn import Load, Sample, costs, percentiles, take_turn
from bench.load.processes import Watch

_OURS = "vgate-dry-run"
_MANY_SEQS = 4096
_MANY_CLIENTS = 64


def _split(measure: str) -> tuple[str, str, str]:
    return measure, f"{measure}.user", f"{measure}.kernel"


_PER_REQUEST = _split("cpu_us_per_request.frontend")
_PER_TOKEN = _split("cpu_us_per_token.frontend")
_PER_ADDED_TOKEN = _split("cpu_us_per_added_token.frontend")
_STREAM_SHOWN = (
    *("output_tokens_per_s", "itl_ms.p50", "itl_ms.p99", *_PER_TOKEN, *_PER_ADDED_TOKEN),
    *("cpu_us_per_token.engine", "generator_cpu_share"),
)


def first_byte(run: Run) -> None:
    """One client and an engine without delay: how long a lone request waits for a token."""
    settings = Settings(workers=1, output_tokens=16)
    load = Load(clients=1, requests=100 if run.quick else 300, max_tokens=16, warmup=20)
    shown = ("ttft_ms.p50", "ttft_ms.p90", "ttft_ms.p99", "e2e_ms.p50", "itl_ms.p50")
    with run.running(_OURS, "fastapi", settings=settings) as contenders:
        case = run.case("1 client", load, contenders, shown)
    run.at_most(1.0, case.figure(_OURS, "ttft_ms.p50"), "median to the first token, ms")


def cached_hits(run: Run) -> None:
    """One request over and over, against granian's own speed with the same bytes."""
    messages = [{"role": "user", "content": "Tell me about the river and the garden"}]
    fields = {"model": "tiny", "messages": messages, "max_tokens": 64, "temperature": 0}
    body = json.dumps(fields).encode()
    with run.running(_OURS, settings=Settings(cache=True, workers=1)) as ours:
        if not ours:
            return
        answer = first_answer(ours[0].service.port, _cached_request(ours[0], body))
        settings = Settings(workers=1, body=answer.decode())
        with run.running("granian", settings=settings) as ceiling:
            # The id and the time that precede it differ in each answer; the rest does not.
            compared = answer[answer.index(b'"choices"') :]
            _measure_hits(run, [*ours, *ceiling], body, compared)


def _measure_hits(run: Run, contenders: Sequence[Running], body: bytes, compared: bytes) -> None:
    shown = ("requests_per_s", "e2e_ms.p50", "e2e_ms.p99", *_PER_REQUEST)
    seconds = 1 if run.quick else 3
    cases = {}
    for clients in (1, _MANY_CLIENTS):

        def turn(running: Running, clients: int = clients) -> Sample:
            return _hits(running, body, compared, clients, seconds)

        name = f"{clients} client{'s' if clients > 1 else ''}"
        load = Load(clients=clients, seconds=seconds)
        cases[clients] = run.case(name, load, contenders, shown, turn)
    alone = cases[1].figure(_OURS, "e2e_ms.p50")
    run.at_most(1.0, alone, "1 client: p50 ms of a hit")
    share = cases[_MANY_CLIENTS].ratio("granian", "requests_per_s")
    run.at_least(0.5, share, f"{_MANY_CLIENTS} clients: requests/s over granian")


def _cached_request(running: Running, body: bytes) -> bytes:
    service = running.service
    return request_bytes(service.port, "/v1/chat/completions", body, service.api_key)


def _hits(running: Running, body: bytes, compared: bytes, clients: int, seconds: float) -> Sample:
    watch = Watch(tuple(running.processes))
    request = _cached_request(running, body)
    try:
        times, took_s = constant_load(
            running.service.port, request, compared, clients=clients, seconds=seconds
        )
    except (WrongAnswerError, OSError) as error:
        raise FailedError(f"{running.name}: {error}") from None
    measures: Measures = {"requests_per_s": times.count / took_s}
    measures |= percentiles("e2e_ms", times.spread())
    for cost in watch.costs(times.count, 0):
        measures |= costs(cost)
    return Sample(measures, [])


def whole_answers(run: Run) -> None:
    """Requests of 64 tokens that are not streamed, template and tokenising included."""
    load = Load(clients=128, requests=512 if run.quick else 2048, stream=False, warmup=32)
    few = Load(clients=32, requests=256, stream=False, warmup=8)
    shown = ("requests_per_s", "e2e_ms.p50", "e2e_ms.p99", *_PER_REQUEST,
             "cpu_us_per_request.engine")  # fmt: skip
    settings = Settings(step_ms=2, max_num_seqs=_MANY_SEQS, workers=1)
    with run.running(*_gateways(run), settings=settings) as contenders:
        case = run.case("64 tokens, whole", _fewer(load, few, contenders), contenders, shown)
    if not run.quick:
        run.note("litellm is sent 256 requests by 32 clients, the others 2048 by 128.")
    cost = case.figure(_OURS, _PER_REQUEST[0])
    run.at_most(300, cost, "frontend CPU us per request of 64 tokens")


def _gateways(run: Run) -> tuple[str, ...]:
    return (_OURS, "fastapi") if run.quick else (_OURS, "fastapi", "litellm")


def _fewer(load: Load, few: Load, contenders: Sequence[Running]) -> dict[str, Load]:
    """Return each contender's load: LiteLLM, which takes milliseconds per request, gets few."""
    return {one.name: few if one.name == "litellm" else load for one in contenders}


def paced_streams(run: Run) -> None:
    """Streams whose tokens come at even steps, and once as fast as each contender can."""
    run.note("An added token is one more of an answer: its cost excludes that of the request.")
    tokens = 64 if run.quick else 128
    for step_ms in (10,) if run.quick else (5, 10, 20):
        settings = Settings(step_ms=step_ms, max_num_seqs=_MANY_SEQS, workers=1, output_tokens=128)
        with run.running(_OURS, "fastapi", settings=settings) as contenders:
            for streams in (128,) if run.quick else (128, 512):
                load = Load(clients=streams, requests=streams, max_tokens=tokens, warmup=16)
                _paced(run, f"{streams} streams, {step_ms} ms steps", load, contenders)
    if not run.quick:
        settings = Settings(max_num_seqs=_MANY_SEQS, workers=1)
        with run.running(_OURS, "fastapi", "litellm", settings=settings) as contenders:
            load = Load(clients=32, requests=64, warmup=8)
            run.case("32 streams, no pace", load, contenders, _STREAM_SHOWN)


def _paced(run: Run, name: str, load: Load, contenders: Sequence[Running]) -> None:
    one_token = msgspec.structs.replace(load, max_tokens=1)

    def turn(running: Running) -> Sample:
        others = [contender for contender in contenders if contender is not running]
        short = take_turn(running, one_token, others)
        sample = take_turn(running, load, others)
        sample.failures.extend(short.failures)
        for request, added in zip(_PER_REQUEST, _PER_ADDED_TOKEN, strict=True):
            if request in sample.measures and request in short.measures:
                difference = sample.measures[request] - short.measures[request]
                sample.measures[added] = difference / (load.max_tokens - 1)
        return sample

    case = run.case(name, load, contenders, _STREAM_SHOWN, turn)
    for measures, what in (
        (_PER_TOKEN, "token, request included"),
        (_PER_ADDED_TOKEN, "added token"),
    ):
        run.at_most(20, case.figure(_OURS, measures[0]), f"{name}: frontend CPU us per {what}")
        run.at_most(10, case.figure(_OURS, measures[1]), f"{name}: of it in user space")


def memory(run: Run) -> None:
    """What the processes hold with a vocabulary of usual size, after some hundred streams."""
    load = Load(clients=64, requests=128 if run.quick else 512, warmup=8)
    few = Load(clients=16, requests=64, warmup=8)
    shown = ("rss_mib.frontend", "peak_rss_mib.frontend", "rss_mib.launcher",
             "peak_rss_mib.launcher", "peak_rss_mib.engine")  # fmt: skip
    settings = Settings(step_ms=2, max_num_seqs=1024, workers=1)
    with run.running(*_gateways(run), settings=settings) as contenders:
        loads = _fewer(load, few, contenders)
        case = run.case("150,000 tokens of vocabulary", loads, contenders, shown)
    for kind, most in (("frontend", 100), ("launcher", 40)):
        peak = case.figure(_OURS, f"peak_rss_mib.{kind}")
        run.at_most(most, peak, f"{kind}: peak memory, MiB")


def starts(run: Run) -> None:
    """Start the contenders that no other scenario has started; starts have a table of their own."""
    for name in (_OURS, "granian", "fastapi") if run.quick else CONTENDERS:
        if name not in run.starts:
            with run.running(name, settings=Settings(workers=1)):
                pass
    run.note("See the table of starts.")
