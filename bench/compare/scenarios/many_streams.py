"""Many open streams, and a very long prompt beside them: what one does to the others."""

from bench.compare.contenders import Settings
from bench.compare.load import Load, LoadProcess, Sample, sample_of
from bench.compare.service import Running
from bench.compare.stage import Stage, figure

_LONG_TOKENS = 30_000
_STREAMS = 200
_STEP_MS = 20
_OPEN_STREAMS = 2000
_OPEN_STEP_MS = 100
_SHOWN = ("itl_ms.p50", "itl_ms.p90", "itl_ms.p99", "itl_ms.max", "ttft_ms.p99",
          "cpu_us_per_token.frontend", "generator_cpu_share")  # fmt: skip


def long_prompt(stage: Stage) -> None:
    """Prompts of 30,000 tokens, one after the other, beside running streams."""
    settings = Settings(step_ms=_STEP_MS, max_num_seqs=1024, max_model_len=65_536, workers=1)
    with stage.running("vgate-dry-run", settings=settings) as contenders:
        tokens = stage.plan.pick(100, 200)
        streams = Load(clients=_STREAMS, requests=_STREAMS, output_tokens=tokens, warmup=16)
        alone = stage.case(f"{_STREAMS} streams alone", streams, contenders, _SHOWN)
        long = Load(clients=1, seconds=600, output_tokens=1, prompt_tokens=_LONG_TOKENS)

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

        both = stage.measure(
            f"{_STREAMS} streams beside prompts of {_LONG_TOKENS} tokens",
            streams.described() | {"long_prompt_tokens": _LONG_TOKENS},
            contenders,
            [*_SHOWN, "long_prompts_per_s"],
            beside,
        )
    before, after = (figure(case, "vgate-dry-run", "itl_ms.p99") for case in (alone, both))
    if before is not None and after is not None:
        stage.target("added to the p99 gap by long prompts, ms", after - before, at_most=10)


def open_streams(stage: Stage) -> None:
    """Two thousand streams on one worker: each must be whole, and none may wait long."""
    streams = stage.plan.pick(500, _OPEN_STREAMS)
    settings = Settings(step_ms=_OPEN_STEP_MS, max_num_seqs=4096, workers=1)
    with stage.running("vgate-dry-run", settings=settings) as contenders:
        load = Load(clients=streams, requests=streams, output_tokens=stage.plan.pick(20, 40))
        case = stage.case(f"{streams} streams, {_OPEN_STEP_MS} ms steps", load, contenders, _SHOWN)
    gap = figure(case, "vgate-dry-run", "itl_ms.p99")
    if gap is not None:
        added = gap - _OPEN_STEP_MS
        stage.target("added to the p99 gap, ms", added, at_most=_OPEN_STEP_MS)
