"""`python -m tests.engine.vllm_steps_program MODEL REPORT`: what vLLM's scheduler puts into a step.

A process of its own, since one can hold one engine only.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.engine.vllm_program import Driver
from vgate.config import Config
from vgate.config.model import Model
from vgate.config.schema import Batch
from vgate.engine.backends import load_backend
from vgate.engine.backends.vllm.step_budget import StepBudget, steer

DECODING = 4
PROMPT_TOKENS = 300
BOUND = 20


class FixedBudget:
    """Always the same bound; keeps what it is told."""

    def __init__(self) -> None:
        self.asked: set[tuple[int, int]] = set()
        self.prompt_tokens = 0
        self.seconds: list[float] = []

    def observe(self, prompt_tokens: int, seconds: float) -> None:
        self.prompt_tokens += prompt_tokens
        self.seconds.append(seconds)

    def tokens(self, decoding: int, starting: int) -> int | None:
        self.asked.add((decoding, starting))
        return BOUND if decoding else None


def late_prompt(driver: Driver, scheduled: list[int]) -> dict[str, Any]:
    """Let a long prompt come while others decode; return the tokens of the steps from then on."""
    backend = driver.backend
    requests = [driver.greedy([100 + n, *range(300, 310)], 60) for n in range(DECODING)]
    late = driver.greedy([(31 * n) % 2000 for n in range(PROMPT_TOKENS)], 5)
    tokens: dict[str, list[int]] = {request.key: [] for request in [*requests, late]}
    for request in requests:
        backend.add(request)
    for number in range(1000):
        if number == 10:
            scheduled.clear()
            backend.add(late)
        if not backend.has_work():
            break
        for output in backend.step() or ():
            tokens[output.key] += output.token_ids
    return {"scheduled": scheduled.copy(), "tokens": list(tokens.values())}


def main(model: str, report_path: str) -> None:
    """Run the same sequences without a bound, and with one."""
    config = Config(
        model=Model(
            model_id=model,
            max_model_len=512,
            dtype="float32",
            # Without prefix caching both runs compute the same.
            engine_args={"enable_chunked_prefill": True, "enable_prefix_caching": False},
        ),
        batch=Batch(max_batch_size=8, target_itl_ms=None),
    )
    backend: Any = load_backend("vllm", config, lambda _phase: None)
    driver, core, scheduled = Driver(backend), backend._core, []
    execute = core.model_executor.execute_model

    def watched(output: Any, **options: Any) -> Any:
        scheduled.append(output.total_num_scheduled_tokens)
        return execute(output, **options)

    core.model_executor.execute_model = watched
    report: dict[str, Any] = {"unbounded": late_prompt(driver, scheduled)}
    plain = core.scheduler.schedule, core.scheduler.update_from_output
    budget: Any = FixedBudget()
    StepBudget(core.scheduler, budget, time.monotonic)
    report["bounded"] = late_prompt(driver, scheduled)
    report["asked"] = sorted(budget.asked)
    report["observed"] = budget.prompt_tokens
    report["shortest_s"] = min(budget.seconds)
    core.scheduler.schedule, core.scheduler.update_from_output = plain
    # The smallest of targets, with the real budget, which first has to learn what a step takes.
    steer(core.scheduler, core.vllm_config, Batch(target_itl_ms=0.001), time.monotonic)
    late_prompt(driver, scheduled)
    report["steered"] = late_prompt(driver, scheduled)
    Path(report_path).write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
