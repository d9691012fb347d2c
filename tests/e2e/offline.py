"""`python -m tests.e2e.offline MODEL REQUEST REPORT`: vLLM's own answers, without a server.

REQUEST is a JSON file with token ids by prompt and the sampling parameters for all of them; REPORT
gets token ids, text and finish reason by prompt. A process of its own, since one can hold one
engine only.
"""

import json
import sys
from pathlib import Path
from typing import Any

from tests.vllm_programs import OFFLINE, run_program


def generate_offline(
    scratch: Path, model: Path, prompts: list[list[int]], sampling: dict[str, Any], **engine: Any
) -> list[dict[str, Any]]:
    """Run the program and return its report."""
    request, report = scratch / "request.json", scratch / "report.json"
    request.write_text(json.dumps({"prompts": prompts, "sampling": sampling, "engine": engine}))
    run_program("tests.e2e.offline", str(model), str(request), str(report), **OFFLINE)
    answers: list[dict[str, Any]] = json.loads(report.read_text())
    return answers


def main(model: str, request_path: str, report_path: str) -> None:
    """Generate for all prompts at once."""
    from vllm import LLM, SamplingParams

    request = json.loads(Path(request_path).read_text())
    llm = LLM(
        model, enforce_eager=True, kv_cache_memory_bytes=256 * 1024 * 1024, **request["engine"]
    )
    prompts = [{"prompt_token_ids": ids} for ids in request["prompts"]]
    answers = llm.generate(prompts, SamplingParams(**request["sampling"]), use_tqdm=False)
    report = [
        {
            "token_ids": list(answer.outputs[0].token_ids),
            "text": answer.outputs[0].text,
            "finish_reason": answer.outputs[0].finish_reason,
        }
        for answer in answers
    ]
    Path(report_path).write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
