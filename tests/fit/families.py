"""A tiny configuration of each family, with the sizes that vLLM's kernels for CPUs take."""

from typing import Any

_PLAIN: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 2048,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "torch_dtype": "bfloat16",
    "tie_word_embeddings": False,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}


def _model(architecture: str, model_type: str, **changed: Any) -> dict[str, Any]:
    return {**_PLAIN, "architectures": [architecture], "model_type": model_type, **changed}


def _llama(**changed: Any) -> dict[str, Any]:
    return _model("LlamaForCausalLM", "llama", **changed)


_GEMMA3 = {
    "hidden_activation": "gelu_pytorch_tanh",
    "head_dim": 64,
    "query_pre_attn_scalar": 64,
    "rope_theta": 1_000_000.0,
    "sliding_window": 512,
    "num_hidden_layers": 7,
    "tie_word_embeddings": True,
}
_WEIGHTS = {"type": "int", "symmetric": True, "dynamic": False, "observer": "minmax"}


def _compressed(bits: int) -> dict[str, Any]:
    weights = {
        **_WEIGHTS,
        "num_bits": bits,
        "strategy": "group" if bits == 4 else "channel",
        "group_size": 32 if bits == 4 else None,
    }
    tokens = {**_WEIGHTS, "num_bits": 8, "strategy": "token", "dynamic": True, "observer": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized" if bits == 4 else "int-quantized",
        "group_size": 32,
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": weights,
                "input_activations": tokens if bits == 8 else None,
                "output_activations": None,
            }
        },
    }


FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _llama(),
    "llama-tied": _llama(tie_word_embeddings=True, vocab_size=2000),
    "llama-rope3": _llama(
        rope_scaling={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 1024,
        }
    ),
    "llama-yarn": _llama(
        rope_scaling={
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 4096,
        }
    ),
    "llama-float32": _llama(torch_dtype="float32"),
    "qwen2": _model("Qwen2ForCausalLM", "qwen2", use_sliding_window=False, sliding_window=1024),
    "qwen2-tied": _model("Qwen2ForCausalLM", "qwen2", tie_word_embeddings=True),
    "qwen3": _model("Qwen3ForCausalLM", "qwen3", head_dim=64),
    "gemma2": _model(
        "Gemma2ForCausalLM",
        "gemma2",
        **{**_GEMMA3, "num_hidden_layers": 4, "final_logit_softcapping": 30.0},
        attn_logit_softcapping=50.0,
    ),
    "gemma3": _model("Gemma3ForCausalLM", "gemma3_text", **_GEMMA3),
    "mistral": _model("MistralForCausalLM", "mistral", sliding_window=None),
    "mistral-window": _model("MistralForCausalLM", "mistral", sliding_window=1024),
    "phi3": _model("Phi3ForCausalLM", "phi3", sliding_window=None),
    "deepseek-mla": _model(
        "DeepseekV2ForCausalLM",
        "deepseek_v2",
        num_key_value_heads=4,
        kv_lora_rank=64,
        q_lora_rank=None,
        qk_rope_head_dim=32,
        qk_nope_head_dim=64,
        v_head_dim=64,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        first_k_dense_replace=1,
        moe_layer_freq=1,
        n_group=1,
        topk_group=1,
        topk_method="greedy",
        norm_topk_prob=False,
        routed_scaling_factor=1.0,
        scoring_func="softmax",
    ),
    "jamba": _model(
        "JambaForCausalLM",
        "jamba",
        attn_layer_period=4,
        attn_layer_offset=2,
        num_hidden_layers=8,
        expert_layer_period=2,
        expert_layer_offset=1,
        num_experts=1,
        mamba_d_state=16,
        mamba_d_conv=4,
        mamba_expand=2,
        mamba_dt_rank=8,
        mamba_conv_bias=True,
        mamba_proj_bias=False,
        num_experts_per_tok=1,
    ),
    "granite-hybrid": _model(
        "GraniteMoeHybridForCausalLM",
        "granitemoehybrid",
        layer_types=["mamba", "mamba", "attention", "mamba"],
        num_local_experts=0,
        mamba_n_heads=8,
        mamba_n_groups=1,
        mamba_d_state=32,
        mamba_d_head=32,
        mamba_d_conv=4,
        mamba_expand=2,
        mamba_chunk_size=64,
        mamba_conv_bias=True,
        mamba_proj_bias=False,
        shared_intermediate_size=256,
        num_experts_per_tok=0,
        embedding_multiplier=1.0,
        logits_scaling=1.0,
        residual_multiplier=1.0,
        attention_multiplier=1.0,
        position_embedding_type="nope",
    ),
    "llama-awq": _llama(
        torch_dtype="float16",
        quantization_config={
            "quant_method": "awq",
            "bits": 4,
            "group_size": 32,
            "zero_point": True,
            "version": "gemm",
        },
    ),
    "llama-gptq": _llama(
        torch_dtype="float16",
        quantization_config={
            "quant_method": "gptq",
            "bits": 4,
            "group_size": 32,
            "desc_act": False,
            "sym": True,
            "lm_head": False,
        },
    ),
    "llama-fp8": _llama(
        quantization_config={"quant_method": "fp8", "activation_scheme": "dynamic"}
    ),
    "llama-fp8-block": _llama(
        num_key_value_heads=4,
        quantization_config={
            "quant_method": "fp8",
            "activation_scheme": "dynamic",
            "weight_block_size": [128, 128],
        },
    ),
    "llama-int4": _llama(quantization_config=_compressed(4)),
    "llama-int8": _llama(quantization_config=_compressed(8)),
}

_MAMBA2 = {
    "mamba_n_heads": 8,
    "mamba_n_groups": 1,
    "mamba_d_state": 32,
    "mamba_d_head": 32,
    "mamba_d_conv": 4,
    "mamba_expand": 2,
    "mamba_chunk_size": 64,
    "mamba_conv_bias": True,
    "mamba_proj_bias": False,
}
# Only the KV cache of these is compared: their weights are vLLM's own dummies.
LAYOUTS: dict[str, dict[str, Any]] = {
    "qwen3-moe": _model(
        "Qwen3MoeForCausalLM",
        "qwen3_moe",
        head_dim=64,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        decoder_sparse_step=1,
        norm_topk_prob=True,
    ),
    "gemma3n": _model(
        "Gemma3nForCausalLM",
        "gemma3n_text",
        **{**_GEMMA3, "num_hidden_layers": 10, "num_kv_shared_layers": 4},
        hidden_size_per_layer_input=64,
        vocab_size_per_layer_input=2048,
        altup_num_inputs=2,
        altup_active_idx=0,
        altup_coef_clip=120.0,
        laurel_rank=16,
        activation_sparsity_pattern=[0.0] * 10,
        layer_types=[
            *["sliding_attention"] * 4,
            "full_attention",
            *["sliding_attention"] * 4,
            "full_attention",
        ],
    ),
    "gemma4": _model(
        "Gemma4ForCausalLM",
        "gemma4_text",
        **{**_GEMMA3, "num_hidden_layers": 8, "num_kv_shared_layers": 2},
        global_head_dim=128,
        hidden_size_per_layer_input=64,
        vocab_size_per_layer_input=2048,
        layer_types=[*(["sliding_attention"] * 3 + ["full_attention"]) * 2],
    ),
    "gpt-oss": _model(
        "GptOssForCausalLM",
        "gpt_oss",
        head_dim=64,
        sliding_window=128,
        num_local_experts=4,
        num_experts_per_tok=2,
        swiglu_limit=7.0,
    ),
    "mixtral-window": _model(
        "MixtralForCausalLM", "mixtral", sliding_window=512, num_local_experts=2
    ),
    "falcon-h1": _model(
        "FalconH1ForCausalLM",
        "falcon_h1",
        **{**_MAMBA2, "mamba_d_ssm": 256, "mamba_rms_norm": False, "head_dim": 32},
    ),
    "nemotron-h": _model(
        "NemotronHForCausalLM",
        "nemotron_h",
        hybrid_override_pattern="M-M*",
        mamba_num_heads=8,
        mamba_head_dim=32,
        n_groups=1,
        ssm_state_size=32,
        conv_kernel=4,
        chunk_size=64,
        head_dim=32,
        mlp_hidden_act="relu2",
        layer_norm_epsilon=1e-5,
        mlp_bias=False,
        use_bias=False,
        use_conv_bias=True,
        attention_bias=False,
    ),
    "lfm2": _model(
        "Lfm2ForCausalLM",
        "lfm2",
        layer_types=["conv", "full_attention", "conv", "full_attention"],
        conv_L_cache=3,
        block_ff_dim=256,
        conv_bias=False,
        block_multiple_of=32,
        block_auto_adjust_ff_dim=False,
        conv_dim=128,
        block_dim=128,
        norm_eps=1e-5,
    ),
    "mamba2": _model(
        "Mamba2ForCausalLM",
        "mamba2",
        expand=2,
        n_groups=1,
        num_heads=8,
        head_dim=32,
        state_size=32,
        conv_kernel=4,
        chunk_size=64,
        layer_norm_epsilon=1e-5,
        use_bias=False,
    ),
}

_EXPERTS: dict[str, Any] = {
    "n_routed_experts": 4,
    "n_shared_experts": 1,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 64,
    "first_k_dense_replace": 1,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
}
# Models with layers that draft tokens.
DRAFTING: dict[str, dict[str, Any]] = {
    "deepseek-v3": _model(
        "DeepseekV3ForCausalLM",
        "deepseek_v3",
        **_EXPERTS,
        num_nextn_predict_layers=1,
        num_key_value_heads=4,
        kv_lora_rank=64,
        q_lora_rank=None,
        qk_rope_head_dim=32,
        qk_nope_head_dim=64,
        v_head_dim=64,
        moe_layer_freq=1,
        topk_method="noaux_tc",
        scoring_func="sigmoid",
    ),
    "glm4-moe": _model(
        "Glm4MoeForCausalLM",
        "glm4_moe",
        **_EXPERTS,
        num_nextn_predict_layers=1,
        head_dim=32,
        attention_bias=False,
        use_qk_norm=False,
        partial_rotary_factor=0.5,
    ),
    "qwen3-next": _model(
        "Qwen3NextForCausalLM",
        "qwen3_next",
        num_nextn_predict_layers=1,
        head_dim=64,
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=64,
        shared_expert_intermediate_size=64,
        norm_topk_prob=True,
        decoder_sparse_step=1,
        mlp_only_layers=[],
        partial_rotary_factor=0.25,
        full_attention_interval=4,
        linear_conv_kernel_dim=4,
        linear_key_head_dim=32,
        linear_value_head_dim=32,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
    ),
}
