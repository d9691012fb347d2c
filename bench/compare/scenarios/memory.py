"""What the processes hold with a vocabulary of usual size, after work."""

from bench.compare.contenders import Settings
from bench.compare.load import Load
from bench.compare.stage import Stage, figure


def memory(stage: Stage) -> None:
    """Serve some hundred streams, then look."""
    settings = Settings(step_ms=2, max_num_seqs=1024, workers=1)
    names = (
        ("vgate-dry-run", "fastapi")
        if stage.plan.quick
        else ("vgate-dry-run", "fastapi", "litellm")
    )
    with stage.running(*names, settings=settings) as contenders:
        load = Load(clients=64, requests=stage.plan.pick(128, 512), warmup=8)
        few = Load(clients=16, requests=64, warmup=8)
        loads = {running.name: few if running.name == "litellm" else load for running in contenders}
        shown = (
            "rss_mib.frontend",
            "peak_rss_mib.frontend",
            "rss_mib.launcher",
            "peak_rss_mib.launcher",
            "peak_rss_mib.engine",
        )
        case = stage.case("150,000 tokens of vocabulary", loads, contenders, shown)
    for kind, most in (("frontend", 100), ("launcher", 40)):
        value = figure(case, "vgate-dry-run", f"peak_rss_mib.{kind}")
        stage.target(f"{kind}: peak memory, MiB", value, at_most=most)
