"""`python -m tests.engine.vllm_speculation_program MODEL TOKENS REPORT`: a draft model on vLLM.

The draft model is MODEL itself, so all TOKENS that it drafts are right; 0 is without speculation.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tests.engine.vllm_program import Driver
from vgate.config import Config
from vgate.config.schema import Batch, Model
from vgate.engine.backends import load_backend
from vgate.wire.messages import GenerateOptions

MOST = (1, 2, 7, 40)
LOGPROBS = 12


def main(model: str, tokens: str, report_path: str) -> None:
    """Generate greedily, all sequences at once."""
    draft = {"method": "draft_model", "model": model, "num_speculative_tokens": int(tokens)}
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
        "logprobs": [[one.token_ids[0], round(one.logprobs[0], 3)] for one in logprobs],
    }
    Path(report_path).write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
