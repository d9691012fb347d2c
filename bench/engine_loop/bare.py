"""vLLM's EngineCore, fed through its InputProcessor and stepped by the shortest loop.

For every line with a seed it writes the seconds that the workload took.
"""

import gc
import os
import sys
import time
from typing import Any

import msgspec

from bench.engine_loop.workload import Workload, vocabulary_size
from vgate.config import Runtime
from vgate.engine.backends.vllm.environment import prepare_environment


def main(run_dir: str, workload: Workload) -> None:
    """Load the model, then measure on demand."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed goes to the log
    config = Runtime.read(run_dir).engine_config(0)
    prepare_environment(config.model)

    from vllm.v1.engine.core import EngineCore
    from vllm.v1.engine.input_processor import InputProcessor
    from vllm.v1.executor import Executor

    from vgate.engine.backends.base import ALL
    from vgate.engine.backends.vllm.files import model_directory
    from vgate.engine.backends.vllm.setup import engine_config

    directory = model_directory(config.model, lambda *_: None)
    vllm_config, _ = engine_config(config, directory, lambda *_: None, ALL)
    core = EngineCore(vllm_config, Executor.get_class(vllm_config), log_stats=False)
    inputs = InputProcessor(vllm_config)
    vocabulary = vocabulary_size(config.model.model_id)
    gc.collect()
    gc.freeze()
    print("ready", file=out)
    for line in sys.stdin:
        prompts = workload.prompts(vocabulary, int(line))
        began = time.perf_counter()
        for round_prompts in prompts:
            _generate(core, inputs, round_prompts, workload.output_tokens)
        print(time.perf_counter() - began, file=out)
    core.shutdown()


def _generate(core: Any, inputs: Any, prompts: list[list[int]], output_tokens: int) -> None:
    from vllm import SamplingParams
    from vllm.inputs.engine import tokens_input
    from vllm.sampling_params import RequestOutputKind

    tasks = core.get_supported_tasks()
    for number, prompt in enumerate(prompts):
        params = SamplingParams(
            temperature=0.0,
            max_tokens=output_tokens,
            ignore_eos=True,
            detokenize=False,
            output_kind=RequestOutputKind.DELTA,
            skip_clone=True,
        )
        request = inputs.process_inputs(str(number), tokens_input(prompt), params, tasks)
        core.add_request(*core.preprocess_add_request(request))
    tokens = 0
    while core.scheduler.has_requests() or core.batch_queue:
        by_client, executed = core.step_fn()
        core.post_step(executed)
        for outputs in (by_client or {}).values():
            for output in outputs.outputs:
                tokens += len(output.new_token_ids)
    assert tokens == len(prompts) * output_tokens


if __name__ == "__main__":
    main(sys.argv[1], msgspec.json.decode(sys.argv[2], type=Workload))
