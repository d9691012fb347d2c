"""What V-Gate shows under vLLM's names has the types and labels that vLLM's own server gives it."""

import json
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from tests.frontend.apis.test_vllm_names import FakeModels
from tests.vllm_programs import run_program
from vgate.frontend.apis.system.vllm_names import VLLMNames
from vgate.wire.messages import Status

# Of earlier versions, for readers that still ask for them.
EARLIER = {
    "vllm:gpu_cache_usage_perc",
    "vllm:gpu_prefix_cache_hits",
    "vllm:gpu_prefix_cache_queries",
    "vllm:time_per_output_token_seconds",
}
# What gateways, autoscalers and the dashboards in vLLM's repository ask for.
READ = {
    "vllm:cache_config_info",
    "vllm:e2e_request_latency_seconds",
    "vllm:generation_tokens",
    "vllm:inter_token_latency_seconds",
    "vllm:kv_cache_usage_perc",
    "vllm:lora_requests_info",
    "vllm:num_preemptions",
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:prefix_cache_hits",
    "vllm:prefix_cache_queries",
    "vllm:prompt_tokens",
    "vllm:request_decode_time_seconds",
    "vllm:request_generation_tokens",
    "vllm:request_max_num_generation_tokens",
    "vllm:request_prefill_time_seconds",
    "vllm:request_prompt_tokens",
    "vllm:request_queue_time_seconds",
    "vllm:request_success",
    "vllm:request_time_per_output_token_seconds",
    "vllm:time_to_first_token_seconds",
}


@pytest.mark.vllm
def test_types_and_labels_are_vllms(tmp_path: Path, tiny_model_dir: Path):
    path = tmp_path / "report.json"
    run_program("tests.engine.vllm_metrics_program", str(tiny_model_dir), str(path))
    theirs = json.loads(path.read_bytes())
    ours = {}
    models = FakeModels(Status(0, 0, 0.0), adapters=["sql"])
    for family in VLLMNames(CollectorRegistry(), models).collect():
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        ours[family.name] = [family.type, sorted(labels)]
    assert ours.keys() - theirs.keys() == EARLIER
    assert ours.keys() >= READ
    # vLLM has all settings of its cache here, and serves one model.
    kind, labels = ours.pop("vllm:cache_config_info")
    assert kind == theirs["vllm:cache_config_info"][0]
    assert {*labels} - {*theirs["vllm:cache_config_info"][1]} == {"model_name"}
    assert {name: theirs[name] for name in ours.keys() - EARLIER} == {
        name: found for name, found in ours.items() if name not in EARLIER
    }
