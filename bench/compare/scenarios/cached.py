"""Answers from the result cache against granian's own speed with the same bytes."""

import json
from collections.abc import Sequence

from bench.compare.constant_load import (
    WrongAnswerError,
    constant_load,
    first_answer,
    request_bytes,
)
from bench.compare.contenders import Settings
from bench.compare.load import Sample
from bench.compare.results import Measures
from bench.compare.service import FailedError, Running
from bench.compare.stage import Stage, figure, ratio
from bench.load.processes import Watch

_PATH = "/v1/chat/completions"
_MANY_CLIENTS = 64
_TOKENS = 64
_SHOWN = (
    "requests_per_s",
    "e2e_ms.p50",
    "e2e_ms.p99",
    "cpu_us_per_request.frontend",
    "cpu_us_per_request.frontend.user",
    "cpu_us_per_request.frontend.kernel",
)


def cached_hits(stage: Stage) -> None:
    """One request over and over, from one client and from many."""
    body = json.dumps(
        {
            "model": "tiny",
            "messages": [{"role": "user", "content": "Tell me about the river and the garden"}],
            "max_tokens": _TOKENS,
            "temperature": 0,
        }
    ).encode()
    settings = Settings(cache=True, workers=1)
    with stage.running("vgate-dry-run", settings=settings) as ours:
        if not ours:
            return
        answer = first_answer(ours[0].service.port, _request(ours[0], body))
        settings = Settings(workers=1, body=answer.decode())
        with stage.running("granian", settings=settings) as ceiling:
            _measure(stage, [*ours, *ceiling], body, answer)


def _measure(stage: Stage, contenders: Sequence[Running], body: bytes, answer: bytes) -> None:
    # The id before it and the time are new in each answer; all that follows is not.
    compared = answer[answer.index(b'"choices"') :]
    seconds = stage.plan.pick(1, 3)
    cases = {}
    for clients in (1, _MANY_CLIENTS):

        def turn(running: Running, clients: int = clients) -> Sample:
            return _turn(running, body, compared, clients, seconds)

        name = f"{clients} client{'s' if clients > 1 else ''}"
        cases[clients] = stage.measure(name, {"clients": clients, "seconds": seconds}, contenders,
                                       _SHOWN, turn)  # fmt: skip
    alone, crowd = cases[1], cases[_MANY_CLIENTS]
    stage.target(
        "1 client: p50 ms of a hit", figure(alone, "vgate-dry-run", "e2e_ms.p50"), at_most=1.0
    )
    share = ratio(crowd, "granian", "requests_per_s")
    stage.target(f"{_MANY_CLIENTS} clients: requests/s over granian", share, at_least=0.5)


def _request(running: Running, body: bytes) -> bytes:
    return request_bytes(running.service.port, _PATH, body, running.service.api_key)


def _turn(running: Running, body: bytes, compared: bytes, clients: int, seconds: float) -> Sample:
    watch = Watch(tuple(running.processes))
    request = _request(running, body)
    try:
        result = constant_load(
            running.service.port, request, compared, clients=clients, seconds=seconds
        )
    except (WrongAnswerError, OSError) as error:
        raise FailedError(f"{running.name}: {error}") from None
    measures: Measures = {"requests_per_s": result.requests / result.seconds}
    spread = result.times.spread()
    assert spread is not None
    measures |= {f"e2e_ms.{p}": getattr(spread, p) for p in ("mean", "p50", "p90", "p99", "max")}
    for cost in watch.costs(result.requests, 0):
        each = cost.cpu_us_per_request
        if each is not None:
            name = f"cpu_us_per_request.{cost.name}"
            measures[name] = each
            if cost.user_share is not None:
                measures[f"{name}.user"] = each * cost.user_share
                measures[f"{name}.kernel"] = each * (1 - cost.user_share)
    return Sample(measures, [])
