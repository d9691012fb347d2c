"""`python -m tests.engine.vllm_speculation_program MODEL TOKENS REPORT`: a draft model on vLLM.

The draft model is MODEL itself, so all TOKENS that it drafts are right; 0 is without speculation.
Then the drafting is switched, by a clock that says what a step costs.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tests.engine.vllm_program import Driver
from vgate.config import Config
from vgate.config.model import Model
from vgate.config.schema import Batch
from vgate.engine.backends import load_backend
from vgate.engine.backends.vllm.cards import draft_control
from vgate.engine.backends.vllm.cards.drafting import Drafting
from vgate.wire.parameters import GenerateOptions

MOST = (1, 2, 7, 40)
LOGPROBS = 12
# Of each sequence while the drafting is switched; a window is shorter than usual.
SWITCHED = 200
WINDOW_STEPS = 6
# What a step with drafts takes, in steps without: more than its tokens are worth, and less.
COSTS = (8.0, 1.3)


class Clock:
    """Says that a step takes a second, or more if it drafts."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._now = 0.0
        self.cost = 1.0

    def __call__(self) -> float:
        # It is asked when a step is scheduled and when it has ended.
        self._now += (self.cost if self._scheduler.dynamic_sd_lookup[2] else 1.0) / 2
        return self._now


def switch(backend: Any, driver: Driver, *, drafts: bool) -> list[dict[str, Any]]:
    """Generate two sequences at each cost; return the tokens, and what was chosen."""
    scheduler, report = backend._core.scheduler, []
    clock = Clock(scheduler)
    draft_control.WINDOW_STEPS = WINDOW_STEPS
    drafting = Drafting(scheduler, clock) if drafts else None
    for clock.cost in COSTS:
        told: list[str] = []
        if drafting is not None:
            drafting.control = draft_control.DraftControl(256, told.append)
            drafting._apply()
        requests = [driver.greedy([n, *range(700, 720)], SWITCHED) for n in (1, 2)]
        tokens = [one.tokens for one in driver.run(*requests)]
        report.append({"tokens": tokens, "told": told})
    return report


def main(model: str, tokens: str, report_path: str) -> None:
    """Generate greedily, all sequences at once."""
    draft = {
        "method": "draft_model",
        "model": model,
        "num_speculative_tokens": int(tokens),
        "num_speculative_tokens_per_batch_size": [[1, 7, int(tokens)], [8, 8, 0]],
    }
    config = Config(
        model=Model(
            model_id=model,
            max_model_len=256,
            dtype="float32",
            engine_args={"speculative_config": draft} if int(tokens) else {},
        ),
        batch=Batch(max_batch_size=8),
    )
    backend: Any = load_backend("vllm", config, lambda _phase: None)
    driver = Driver(backend)
    requests = [driver.greedy([100 + n, *range(300, 320)], most) for n, most in enumerate(MOST)]
    told = driver.greedy(list(range(500, 520)), LOGPROBS)
    told.options = GenerateOptions(logprobs=1)
    outputs: dict[str, list[Any]] = {request.key: [] for request in [*requests, told]}
    for request in [*requests, told]:
        backend.add(request)
    while backend.has_work():
        for output in backend.step() or ():
            outputs[output.key].append(output)
    logprobs = [one for output in outputs[told.key] for one in output.logprobs]
    report = {
        "tokens": [[t for output in of for t in output.token_ids] for of in outputs.values()],
        "reasons": [[output.finish_reason for output in of][-1] for of in outputs.values()],
        "steps": [len(of) for of in outputs.values()],
        "logprobs": [[one.token_id, round(one.unpack()[1][0], 3)] for one in logprobs],
        "counts": backend.counts()[-2:],
        "switched": switch(backend, driver, drafts=bool(int(tokens))),
    }
    Path(report_path).write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
