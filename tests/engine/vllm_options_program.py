"""`python -m tests.engine.vllm_options_program MODEL ADAPTERS REQUEST REPORT`: options on vLLM.

MODEL thinks, and ADAPTERS is a JSON list of directories. REQUEST is as that of
`tests.engine.vllm_offline`; its cases run here all at once. REPORT has them under `cases`, and what
became of forms of the text.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
from tokenizers import Tokenizer

from tests.engine.vllm_offline import read_cases
from vgate.config import Config
from vgate.config.model import LoraAdapter, Model
from vgate.config.schema import Batch
from vgate.engine.backends import load_backend
from vgate.engine.backends.base import Output
from vgate.engine.backends.vllm.reasoning import has_marks
from vgate.engine.request import Request
from vgate.wire.logprobs import Logprobs
from vgate.wire.parameters import DEFAULTS, GenerateOptions, SamplingParams, StructuredOutput

TIMEOUT_S = 120
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "minLength": 1, "maxLength": 6},
        "kind": {"enum": ["a", "b", None]},
        "counts": {"type": "array", "items": {"enum": [1, 20]}, "minItems": 1, "maxItems": 3},
        "inner": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/pair"}]},
    },
    "required": ["name", "kind", "counts", "inner"],
    "additionalProperties": False,
    "$defs": {
        "pair": {
            "type": "object",
            "properties": {"x": {"type": "boolean"}, "y": {"type": "boolean"}},
            "required": ["x", "y"],
            "additionalProperties": False,
        }
    },
}


class Driver:
    """Runs requests on the backend until all have ended."""

    def __init__(self, backend: Any, model: str) -> None:
        self.backend = backend
        self.tokenizer = Tokenizer.from_file(f"{model}/tokenizer.json")
        self._numbers = iter(range(1_000_000))

    def request(self, prompt: list[int], options: GenerateOptions, **sampling: Any) -> Request:
        chosen = SamplingParams(**{"temperature": 0.0, "max_tokens": 20, **sampling})
        request = Request(str(next(self._numbers)), prompt, chosen.over(DEFAULTS))
        request.options = options
        return request

    def run(self, *requests: Request) -> list[list[Output]]:
        outputs: dict[str, list[Output]] = {request.key: [] for request in requests}
        for request in requests:
            self.backend.add(request)
        deadline = time.monotonic() + TIMEOUT_S
        while self.backend.has_work():
            assert time.monotonic() < deadline
            for output in self.backend.step() or ():
                outputs[output.key].append(output)
        return list(outputs.values())

    def text(self, text: str, structured: StructuredOutput, **sampling: Any) -> str:
        """Return what is said after a prompt, with its special tokens."""
        prompt = self.tokenizer.encode(text).ids
        request = self.request(prompt, GenerateOptions(structured=structured), **sampling)
        (outputs,) = self.run(request)
        tokens = [token for output in outputs for token in output.token_ids]
        return str(self.tokenizer.decode(tokens, skip_special_tokens=False))


def cases(driver: Driver, described: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run all cases in one batch."""
    requests = []
    for case in described:
        sampling = dict(case["sampling"])
        told = {name: sampling.pop(name, None) for name in ("logprobs", "prompt_logprobs")}
        adapter = Path(case["adapter"]).name if case["adapter"] else ""
        options = GenerateOptions(**told, adapter=adapter)
        requests.append(driver.request(case["prompt"], options, **sampling))
    return [
        {
            "token_ids": [token for output in outputs for token in output.token_ids],
            "logprobs": [values(place) for output in outputs for place in output.logprobs or []],
            "prompt_logprobs": list(map(values, outputs[0].prompt_logprobs or [])),
        }
        for outputs in driver.run(*requests)
    ]


def values(place: Logprobs | None) -> tuple[Any, ...] | None:
    """What is told of a place; None of the prompt's first token."""
    return place and (*place.unpack(), place.rank)


def reasoning(driver: Driver) -> dict[str, str]:
    """A grammar holds for what follows the reasoning, wherever that ends."""
    turn = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    yes = StructuredOutput("choice", ["yes"], after_reasoning=True)
    begin, end = map(driver.tokenizer.token_to_id, ("<think>", "</think>"))
    stop = driver.tokenizer.token_to_id("<|im_end|>")
    return {
        "closed_in_the_prompt": driver.text(f"{turn}<think>\n\n</think>\n\n", yes),
        "closed_before_a_begun_answer": driver.text(f"{turn}<think>Hm</think>I say: ", yes),
        "no_reasoning": driver.text(f"{turn}<think>\n", StructuredOutput("choice", ["yes"])),
        "open": driver.text(f"{turn}<think>\n", yes),
        "not_begun": driver.text(turn, yes),
        "closed_in_an_earlier_turn": driver.text(
            f"{turn}<think>Hm</think>Hi<|im_end|>\n{turn}", yes
        ),
        "ends_at_once": driver.text(f"{turn}<think>\n", yes, logit_bias={end: 100.0}),
        "begins_itself": driver.text(turn, yes, logit_bias={begin: 50.0, end: 100.0}),
        "wants_to_stop": driver.text(f"{turn}<think>\n", yes, logit_bias={stop: 100.0}),
    }


def settings(config: Config, vllm_config: Any) -> dict[str, Any]:
    """vLLM's settings for grammars by the operator's, and whether the model has reasoning marks."""
    from vgate.engine.backends.vllm.setup import _structured_outputs

    given: list[dict[str, Any] | None] = [
        None,
        {"disable_any_whitespace": False},
        {"backend": "auto"},
        {"backend": "guidance", "reasoning_parser": "qwen3"},
    ]
    told = [_structured_outputs(one) for one in given]
    parsers: list[Any] = ["auto", "none", "think"]
    return {
        "structured": [
            [one.backend, one.disable_any_whitespace, one.reasoning_parser] for one in told
        ],
        "has_marks": [
            has_marks(msgspec.structs.replace(config.model, reasoning_parser=parser), vllm_config)
            for parser in parsers
        ],
    }


def main(model: str, adapters: str, request_path: str, report_path: str) -> None:
    """Load the model, run everything, write the report."""
    config = Config(
        model=Model(
            model_id=model,
            max_model_len=256,
            dtype="float32",
            lora_adapters=[
                LoraAdapter(name=Path(directory).name, path=directory)
                for directory in json.loads(adapters)
            ],
        ),
        batch=Batch(max_num_seqs=16),
    )
    phases: list[str] = []
    backend: Any = load_backend("vllm", config, phases.append)
    driver = Driver(backend, model)
    closed = "<|im_start|>assistant\n<think>\n\n</think>\n\n"
    form = StructuredOutput("json", json.dumps(SCHEMA))
    report = {
        "phases": phases,
        "settings": settings(config, backend._core.vllm_config),
        "cases": cases(driver, read_cases(request_path)),
        "reasoning": reasoning(driver),
        "json": [
            driver.text(closed, form, temperature=1.0, seed=seed, max_tokens=150)
            for seed in range(8)
        ],
    }
    backend.shutdown()
    Path(report_path).write_bytes(msgspec.json.encode(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
