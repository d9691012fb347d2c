"""`python -m tests.engine.vllm_offline MODEL REQUEST REPORT`: what vLLM itself makes of options.

REQUEST is a JSON list of cases: `prompt` (token ids), `sampling` (of vLLM's SamplingParams) and
`adapter` (a directory, or null). REPORT gets token ids and log probabilities by case. A process of
its own, since one can hold one engine only.
"""

import json
import sys
from pathlib import Path
from typing import Any


def main(model: str, request_path: str, report_path: str) -> None:
    """Generate case by case, so that none depends on another."""
    from vllm import LLM, SamplingParams
    from vllm.lora.request import LoRARequest

    cases = read_cases(request_path)
    directories = sorted({case["adapter"] for case in cases} - {None})
    adapters = {
        directory: LoRARequest(Path(directory).name, number, directory)
        for number, directory in enumerate(directories, start=1)
    }
    llm = LLM(
        model,
        enforce_eager=True,
        dtype="float32",
        max_model_len=256,
        kv_cache_memory_bytes=64 * 1024 * 1024,
        enable_lora=True,
        # vLLM's kernels for the CPU take the last place for the model itself.
        max_loras=len(directories) + 1,
    )
    report = [
        _told(
            llm.generate(
                {"prompt_token_ids": case["prompt"]},
                SamplingParams(**case["sampling"]),
                lora_request=adapters.get(case["adapter"]),
                use_tqdm=False,
            )[0]
        )
        for case in cases
    ]
    Path(report_path).write_text(json.dumps(report))


def read_cases(path: str) -> list[dict[str, Any]]:
    """Return the cases; JSON has no numbers for keys."""
    cases: list[dict[str, Any]] = json.loads(Path(path).read_text())
    for sampling in (case["sampling"] for case in cases):
        if "logit_bias" in sampling:
            sampling["logit_bias"] = {int(t): bias for t, bias in sampling["logit_bias"].items()}
    return cases


def _told(answer: Any) -> dict[str, Any]:
    output = answer.outputs[0]
    return {
        "token_ids": list(output.token_ids),
        "logprobs": [_place(place) for place in output.logprobs or []],
        "prompt_logprobs": [_place(place) for place in answer.prompt_logprobs or []],
    }


def _place(place: Any) -> dict[int, list[float]] | None:
    """Return log probability and rank of each token at a place."""
    return place and {token: [one.logprob, one.rank] for token, one in place.items()}


if __name__ == "__main__":
    main(*sys.argv[1:])
