"""`python -m tests.e2e.offline MODEL REQUEST REPORT`: vLLM's own answers, without a server.

REQUEST is a JSON file with token ids by prompt and the sampling parameters for all of them; REPORT
gets token ids, text and finish reason by prompt. A process of its own, since one can hold one
engine only.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.e2e.instance import ROOT

TIMEOUT_S = 300
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
    "TORCHDYNAMO_DISABLE": "1",
}


def generate_offline(
    scratch: Path, model: Path, prompts: list[list[int]], sampling: dict[str, Any], **engine: Any
) -> list[dict[str, Any]]:
    """Run the program and return its report."""
    request, report = scratch / "request.json", scratch / "report.json"
    request.write_text(json.dumps({"prompts": prompts, "sampling": sampling, "engine": engine}))
    environment = {**os.environ, **ENVIRONMENT}
    # vLLM's import is slow without its compiled files.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    finished = subprocess.run(
        [sys.executable, "-m", "tests.e2e.offline", str(model), str(request), str(report)],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout[-5000:]
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
