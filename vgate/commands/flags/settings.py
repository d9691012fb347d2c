"""What vLLM's flags are here, by the arguments that they set: settings, nothing, or refused.

What is not listed is an argument of vLLM's engine, or has no effect here and is told.
"""

# Flags that set the same here; these words have other names.
SAME = {
    "served_model_name": "VGATE_MODEL__SERVED_MODEL_NAME",
    "quantization": "VGATE_MODEL__QUANTIZATION",
    "gpu_memory_utilization": "VGATE_MODEL__GPU_MEMORY_UTILIZATION",
    "max_model_len": "VGATE_MODEL__MAX_MODEL_LEN",
    "tensor_parallel_size": "VGATE_MODEL__TENSOR_PARALLEL_SIZE",
    "pipeline_parallel_size": "VGATE_MODEL__PIPELINE_PARALLEL_SIZE",
    "distributed_executor_backend": "VGATE_MODEL__DISTRIBUTED_EXECUTOR_BACKEND",
    "data_parallel_size": "VGATE_MODEL__REPLICAS",
    "dtype": "VGATE_MODEL__DTYPE",
    "revision": "VGATE_MODEL__REVISION",
    "task": "VGATE_MODEL__TASK",
    "trust_remote_code": "VGATE_MODEL__TRUST_REMOTE_CODE",
    "chat_template": "VGATE_MODEL__CHAT_TEMPLATE",
    "default_chat_template_kwargs": "VGATE_MODEL__CHAT_TEMPLATE_KWARGS",
    "generation_config": "VGATE_MODEL__GENERATION_CONFIG",
    "enable_prefix_caching": "VGATE_MODEL__PREFIX_CACHING",
    "trust_request_chat_template": "VGATE_MODEL__ALLOW_REQUEST_CHAT_TEMPLATE",
    "max_num_seqs": "VGATE_BATCH__MAX_NUM_SEQS",
    "api_server_count": "VGATE_SERVER__WORKERS",
    "allowed_origins": "VGATE_SERVER__CORS_ALLOW_ORIGINS",
    "ssl_keyfile": "VGATE_SERVER__TLS__KEY",
    "ssl_certfile": "VGATE_SERVER__TLS__CERTIFICATE",
    "enable_ssl_refresh": "VGATE_SERVER__TLS__RELOAD",
    "sse_keep_alive_interval": "VGATE_SERVER__STREAM_KEEPALIVE_S",
    "shutdown_timeout": "VGATE_SERVER__DRAIN_TIMEOUT_S",
    "otlp_traces_endpoint": "VGATE_TRACING__ENDPOINT",
    "uvicorn_log_level": "VGATE_LOGGING__LEVEL",
    "hf_token": "HF_TOKEN",
    "download_dir": "HF_HUB_CACHE",
}
WORDS = {
    ("dtype", "half"): "float16",
    ("dtype", "float"): "float32",
    ("max_model_len", -1): "auto",
    ("task", "embedding"): "embed",
    ("task", "score"): "classify",
    ("uvicorn_log_level", "trace"): "debug",
}
# Formats of tool calls that V-Gate reads, by vLLM's names; it finds the others' in the template.
TOOL_PARSERS = {
    **{name: name for name in ("hermes", "mistral", "pythonic", "llama3_json", "deepseek_v3")},
    **dict.fromkeys(("qwen3_coder", "qwen3_xml"), "qwen3_coder"),
    "llama4_json": "llama3_json",
    "llama4_pythonic": "pythonic",
}
# V-Gate does this anyway, or another flag says it.
ALWAYS = {
    *("enable_auto_tool_choice", "exclude_tools_when_tool_choice_none", "enable_log_requests"),
    *("enable_prompt_tokens_details", "enable_server_load_tracking", "disable_log_stats"),
    *("enable_tokenizer_info_endpoint", "enable_request_id_headers", "enable_lora", "max_log_len"),
    *("enable_offline_docs", "disable_log_requests", "enable_reasoning", "ssl_cert_reqs"),
}
# Arguments of vLLM's engine that its API server follows, and V-Gate does not.
UNUSED = {"stream_interval"}
# Formats that a model has, which V-Gate finds in its chat template.
FOUND = {"reasoning_parser", "tool_call_parser"}
# Kinds of KV caches that are settings; further ones are only vLLM's.
KV_CACHES = {"auto", "float16", "bfloat16", "fp8", "fp8_e4m3", "fp8_e5m2"}
_HOSTS = "use --data-parallel-size on one machine, and `vgate join` on others (docs/hosts.md)"
# What would serve something else if it were left out, and what to do.
REFUSED = {
    "uds": "V-Gate listens on --host and --port",
    **dict.fromkeys(("grpc", "grpc_port"), "V-Gate serves HTTP; leave it out"),
    "middleware": "V-Gate takes no code of others: put a proxy in front of it",
    "root_path": "let the proxy remove the path before it asks V-Gate",
    "tool_server": "the client runs the tools; leave it out",
    **dict.fromkeys(
        ("tool_parser_plugin", "reasoning_parser_plugin"),
        "V-Gate reads the formats that it has (docs/models.md); leave it out",
    ),
    **dict.fromkeys(("tokens_only", "enable_scale_out"), "V-Gate answers with text; leave it out"),
    **dict.fromkeys(
        (
            *("headless", "data_parallel_rank", "data_parallel_start_rank", "enable_elastic_ep"),
            *("data_parallel_size_local", "data_parallel_address", "data_parallel_rpc_port"),
            *("data_parallel_backend", "data_parallel_hybrid_lb", "data_parallel_external_lb"),
            "data_parallel_multi_port_external_lb",
        ),
        _HOSTS,
    ),
}
# Arguments that the engine doesn't get.
TAKEN = {*ALWAYS, *UNUSED, *FOUND, *REFUSED}
# Flags that vLLM had once, with what they take; scripts still have them.
FORMER = {
    "--task": "text task",
    "--disable-log-requests": "true disable_log_requests",
    "--enable-reasoning": "true enable_reasoning",
    **{
        name: f"text {name}"
        for name in (
            *("--swap-space", "--device", "--guided-decoding-backend", "--num-scheduler-steps"),
            *("--preemption-mode", "--num-lookahead-slots", "--max-seq-len-to-capture"),
        )
    },
    **{
        name: f"true {name}"
        for name in (
            *("--use-v2-block-manager", "--disable-frontend-multiprocessing", "--worker-use-ray"),
            *("--engine-use-ray", "--disable-async-output-proc", "--multi-step-stream-outputs"),
        )
    },
}
