"""The frontends alone: the engine is simulated, so that what is left is the gateway's own cost."""

from collections.abc import Sequence

import msgspec

from bench.compare.contenders import Settings
from bench.compare.load import Load, Sample, take_turn
from bench.compare.results import Case, Measures
from bench.compare.service import Running
from bench.compare.stage import Stage, figure

_MANY = 4096
_STREAM_SHOWN = (
    "output_tokens_per_s",
    "itl_ms.p50",
    "itl_ms.p99",
    "cpu_us_per_token.frontend",
    "cpu_us_per_token.frontend.user",
    "cpu_us_per_token.frontend.kernel",
    "cpu_us_per_added_token.frontend",
    "cpu_us_per_added_token.frontend.user",
    "cpu_us_per_added_token.frontend.kernel",
    "cpu_us_per_token.engine",
    "generator_cpu_share",
)
_PER_TOKEN = "cpu_us_per_token.frontend"
_ADDED = "cpu_us_per_added_token.frontend"


def paced_streams(stage: Stage) -> None:
    """Streams whose tokens come at even steps, and once as fast as each contender can."""
    plan = stage.plan
    stage.note("An added token is one more of an answer: the cost without what a request costs.")
    for step_ms in (10,) if plan.quick else (5, 10, 20):
        settings = Settings(step_ms=step_ms, max_num_seqs=_MANY, workers=1, output_tokens=128)
        with stage.running("vgate-dry-run", "fastapi", settings=settings) as contenders:
            for streams in (128,) if plan.quick else (128, 512):
                name = f"{streams} streams, {step_ms} ms steps"
                load = Load(
                    clients=streams,
                    requests=streams,
                    output_tokens=plan.pick(64, 128),
                    warmup=16,
                )
                _judge(stage, name, _paced(stage, name, load, contenders))
    if not plan.quick:
        _unpaced(stage)


def _paced(stage: Stage, name: str, load: Load, contenders: Sequence[Running]) -> Case | None:
    short = msgspec.structs.replace(load, output_tokens=1)

    def turn(running: Running) -> Sample:
        others = [contender for contender in contenders if contender is not running]
        requests_only = take_turn(running, short, others)
        sample = take_turn(running, load, others)
        sample.failures.extend(requests_only.failures)
        _add_marginal(sample.measures, requests_only.measures, load.output_tokens)
        return sample

    return stage.measure(name, load.described(), contenders, _STREAM_SHOWN, turn)


def _add_marginal(measures: Measures, short: Measures, tokens: int) -> None:
    """Add what a token costs beyond the first, from the costs of a request of each length."""
    for part in ("", ".user", ".kernel"):
        name = f"cpu_us_per_request.frontend{part}"
        if name in measures and name in short:
            measures[f"{_ADDED}{part}"] = (measures[name] - short[name]) / (tokens - 1)


def _judge(stage: Stage, name: str, case: Case | None) -> None:
    for measure, what in ((_PER_TOKEN, "token, request included"), (_ADDED, "added token")):
        cost = figure(case, "vgate-dry-run", measure)
        user = figure(case, "vgate-dry-run", f"{measure}.user")
        stage.target(f"{name}: frontend CPU us per {what}", cost, at_most=20)
        stage.target(f"{name}: of it in user space", user, at_most=10)


def _unpaced(stage: Stage) -> None:
    """As fast as they can: LiteLLM's mock knows no pace."""
    settings = Settings(step_ms=0, max_num_seqs=_MANY, workers=1, output_tokens=64)
    with stage.running("vgate-dry-run", "fastapi", "litellm", settings=settings) as contenders:
        load = Load(clients=32, requests=64, output_tokens=64, warmup=8)
        stage.case("32 streams, no pace", load, contenders, _STREAM_SHOWN)


def whole_answers(stage: Stage) -> None:
    """Requests of 64 tokens that are not streamed, template and tokenising included."""
    names = ("vgate-dry-run", "fastapi", "litellm")
    settings = Settings(step_ms=2, max_num_seqs=_MANY, workers=1, output_tokens=64)
    with stage.running(
        *(names[:2] if stage.plan.quick else names), settings=settings
    ) as contenders:
        many = Load(clients=128, requests=stage.plan.pick(512, 2048), stream=False, warmup=32)
        # LiteLLM needs milliseconds for each.
        few = Load(clients=32, requests=256, stream=False, warmup=8)
        loads = {running.name: few if running.name == "litellm" else many for running in contenders}
        shown = (
            "requests_per_s",
            "e2e_ms.p50",
            "e2e_ms.p99",
            "cpu_us_per_request.frontend",
            "cpu_us_per_request.frontend.user",
            "cpu_us_per_request.frontend.kernel",
            "cpu_us_per_request.engine",
        )
        case = stage.case("64 tokens, whole", loads, contenders, shown)
    if not stage.plan.quick:
        stage.note("litellm is sent 256 requests by 32 clients, the others 2048 by 128.")
    cost = figure(case, "vgate-dry-run", "cpu_us_per_request.frontend")
    stage.target("frontend CPU us per request of 64 tokens", cost, at_most=300)


def first_byte(stage: Stage) -> None:
    """One client and an engine without delay: what a lone request waits for its first token."""
    settings = Settings(step_ms=0, max_num_seqs=64, workers=1, output_tokens=16)
    with stage.running("vgate-dry-run", "fastapi", settings=settings) as contenders:
        load = Load(clients=1, requests=stage.plan.pick(100, 300), output_tokens=16, warmup=20)
        shown = ("ttft_ms.p50", "ttft_ms.p90", "ttft_ms.p99", "e2e_ms.p50", "itl_ms.p50")
        case = stage.case("1 client", load, contenders, shown)
    added = figure(case, "vgate-dry-run", "ttft_ms.p50")
    stage.target("median to the first token, ms", added, at_most=1.0)
