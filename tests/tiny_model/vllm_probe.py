"""`python -m tests.tiny_model.vllm_probe MODEL REQUEST REPORT`: what vLLM makes of the model.

It runs in a process of its own, because a process can hold one engine only, and because creating
the engine's configuration changes LD_PRELOAD for every later child. REQUEST and REPORT are JSON
files, since vLLM logs to the standard output.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from vllm import LLM, SamplingParams
from vllm.tokenizers import get_tokenizer


def main(model: str, request_path: str, report_path: str) -> None:
    """Tokenize, render and generate what the request asks for, and write the report."""
    request = json.loads(Path(request_path).read_text(encoding="utf-8"))
    report = _tokenize(model, request) | _generate(model, request["prompts"], request["eos_ids"])
    Path(report_path).write_text(json.dumps(report), encoding="utf-8")


def _tokenize(model: str, request: dict[str, Any]) -> dict[str, Any]:
    tokenizer: Any = get_tokenizer(model)
    return {
        "ids": [tokenizer.encode(text) for text in request["texts"]],
        "rendered": [
            tokenizer.apply_chat_template(
                conversation["messages"],
                tools=conversation.get("tools"),
                add_generation_prompt=conversation["add_generation_prompt"],
                tokenize=False,
            )
            for conversation in request["conversations"]
        ],
    }


def _generate(model: str, prompts: list[str], eos_ids: list[int]) -> dict[str, Any]:
    llm = LLM(model, enforce_eager=True, max_model_len=2048, kv_cache_memory_bytes=256 * 1024**2)
    greedy = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    runs = [llm.generate(prompts, greedy, use_tqdm=False) for _ in range(2)]
    forced = [SamplingParams(temperature=0, max_tokens=4, logit_bias={i: 100}) for i in eos_ids]
    endings = llm.generate(["Hello"] * len(forced), forced, use_tqdm=False)
    defaults = llm.get_default_sampling_params()
    return {
        "runs": [[list(answer.outputs[0].token_ids) for answer in run] for run in runs],
        "texts": [answer.outputs[0].text for answer in runs[0]],
        "endings": [
            [len(answer.outputs[0].token_ids), answer.outputs[0].finish_reason]
            for answer in endings
        ],
        "defaults": [defaults.temperature, defaults.top_p, defaults.top_k],
        "dtype": str(llm.llm_engine.model_config.dtype),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
