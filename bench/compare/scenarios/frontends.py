"""The frontends alone: the engine is simulated, so that what is left is the gateway's own cost."""

from bench.compare.contenders import Settings
from bench.compare.load import Load
from bench.compare.stage import Stage, figure

_MANY = 4096
_STREAM_SHOWN = (
    "output_tokens_per_s",
    "itl_ms.p50",
    "itl_ms.p99",
    "cpu_us_per_token.frontend",
    "cpu_us_per_token.frontend.user",
    "cpu_us_per_token.frontend.kernel",
    "cpu_us_per_token.engine",
    "generator_cpu_share",
)
_PER_TOKEN = "cpu_us_per_token.frontend"


def paced_streams(stage: Stage) -> None:
    """Streams whose tokens come at even steps, and once as fast as each contender can."""
    plan = stage.plan
    for step_ms in (10,) if plan.quick else (5, 10, 20):
        settings = Settings(step_ms=step_ms, max_num_seqs=_MANY, workers=1, output_tokens=128)
        with stage.running("vgate-dry-run", "fastapi", settings=settings) as contenders:
            for streams in (128,) if plan.quick else (128, 512):
                load = Load(
                    clients=streams,
                    requests=streams * (2 if streams < 512 and not plan.quick else 1),
                    output_tokens=plan.pick(64, 128),
                    warmup=16,
                )
                name = f"{streams} streams, {step_ms} ms steps"
                case = stage.case(name, load, contenders, _STREAM_SHOWN)
                cost = figure(case, "vgate-dry-run", _PER_TOKEN)
                user = figure(case, "vgate-dry-run", f"{_PER_TOKEN}.user")
                stage.target(f"{name}: frontend CPU us per token", cost, at_most=20)
                stage.target(f"{name}: of it in user space", user, at_most=10)
    if not plan.quick:
        _unpaced(stage)


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
