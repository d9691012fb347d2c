"""What people have published of vLLM's starts: models, cards, settings, and what vLLM logged.

Configurations are those of the models on the Hub, as far as they matter here. Figures are GiB as
vLLM logs them, rounded to two digits (weights of older versions: to four).
"""

from typing import Any

import msgspec

_VLLM = "https://github.com/vllm-project/vllm"
_CLUB = "https://github.com/noonghunna/club-3090"


def _llama(
    model_type: str, sizes: tuple[int, int, int, int, int, int], context: int, **more: Any
) -> dict[str, Any]:
    hidden, inner, layers, heads, kv_heads, vocabulary = sizes
    return {
        "model_type": model_type,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "vocab_size": vocabulary,
        "max_position_embeddings": context,
        "torch_dtype": "bfloat16",
        "tie_word_embeddings": False,
        **more,
    }


def _int4(method: str) -> dict[str, Any]:
    return {
        "torch_dtype": "float16",
        "quantization_config": {
            "quant_method": method,
            "bits": 4,
            "group_size": 128,
            "sym": True,
            "desc_act": False,
        },
    }


_INT8 = {
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "config_groups": {"group_0": {"weights": {"num_bits": 8}}},
    }
}
_LINEAR = {"layer_types": None, "full_attention_interval": 4, "head_dim": 256}
_DELTA = {
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "mamba_ssm_dtype": "float32",
}
_GPT_OSS = {"head_dim": 64, "sliding_window": 128, "num_experts_per_tok": 4}

MODELS: dict[str, dict[str, Any]] = {
    "Llama-2-7b": _llama("llama", (4096, 11008, 32, 32, 32, 32000), 4096, torch_dtype="float16"),
    "Llama-3-8B": _llama("llama", (4096, 14336, 32, 32, 8, 128256), 8192),
    "Llama-3-8B-AWQ": _llama("llama", (4096, 14336, 32, 32, 8, 128256), 8192, **_int4("awq")),
    "Llama-3.1-8B": _llama("llama", (4096, 14336, 32, 32, 8, 128256), 131072),
    "Llama-3.1-70B-w8a8": _llama("llama", (8192, 28672, 80, 64, 8, 128256), 131072, **_INT8),
    "Qwen1.5-7B-GPTQ": _llama("qwen2", (4096, 11008, 32, 32, 32, 151936), 32768, **_int4("gptq")),
    "Qwen2.5-7B-AWQ": _llama("qwen2", (3584, 18944, 28, 28, 4, 152064), 32768, **_int4("awq")),
    # One of two GPUs with half of the heads each.
    "Qwen2.5-32B, half": _llama("qwen2", (5120, 27648, 64, 40, 4, 152064), 32768, head_dim=128),
    "R1-Distill-Qwen-1.5B": _llama("qwen2", (1536, 8960, 28, 12, 2, 151936), 131072),
    "Qwen3-30B-A3B": _llama(
        "qwen3_moe", (2048, 6144, 48, 32, 4, 151936), 262144, head_dim=128, num_experts_per_tok=8
    ),
    "Qwen3-Coder-480B": _llama(
        "qwen3_moe", (6144, 8192, 62, 96, 8, 151936), 262144, head_dim=128, num_experts_per_tok=8
    ),
    "MiniMax-M2.7, half": _llama(
        "minimax_m2", (3072, 1536, 62, 48, 4, 200064), 196608, head_dim=128
    ),
    "Qwen3.6-35B-A3B": _llama(
        "qwen3_5_moe_text",
        (2048, 512, 40, 16, 2, 248320),
        262144,
        **{**_LINEAR, **_DELTA, "linear_num_key_heads": 16, "linear_num_value_heads": 32},
    ),
    "Qwen3.8-27B": _llama(
        "qwen3_5_text",
        (5120, 17408, 64, 24, 4, 248320),
        262144,
        **{**_LINEAR, **_DELTA, "linear_num_key_heads": 16, "linear_num_value_heads": 48},
    ),
    "Qwen3.8-27B, half": _llama(
        "qwen3_5_text",
        (5120, 17408, 64, 12, 2, 248320),
        262144,
        **{**_LINEAR, **_DELTA, "linear_num_key_heads": 8, "linear_num_value_heads": 24},
    ),
    "Gemma-3-1b": _llama(
        "gemma3_text",
        (1152, 6912, 26, 4, 1, 262144),
        32768,
        head_dim=256,
        sliding_window=512,
        tie_word_embeddings=True,
    ),
    "gpt-oss-20b": _llama("gpt_oss", (2880, 2880, 24, 64, 8, 201088), 131072, **_GPT_OSS),
    "gpt-oss-120b": _llama("gpt_oss", (2880, 2880, 36, 64, 8, 201088), 131072, **_GPT_OSS),
    "DeepSeek-V2-Lite": _llama(
        "deepseek_v2",
        (2048, 10944, 27, 16, 16, 102400),
        163840,
        kv_lora_rank=512,
        qk_rope_head_dim=64,
        qk_nope_head_dim=128,
        v_head_dim=128,
        n_routed_experts=64,
        n_shared_experts=2,
        moe_intermediate_size=1408,
        first_k_dense_replace=1,
        num_experts_per_tok=6,
    ),
}


class Case(msgspec.Struct, frozen=True, kw_only=True):
    """One report.

    Attributes:
        weights: What the model took.
        loaded: The same, of a format whose files are not made here.
        kv_memory: What remained for the KV cache.
        context: The model length that was asked for, and whether it fitted.
        tokens, concurrency: The KV cache's size, and how often the context fits into it.
        longest: The context that vLLM said would fit.
        needed: What vLLM said that the context needs.
        total, utilization: The card.
        sequences, step_tokens: The largest batch and step, where they are known.
        sampler_bytes: What the sampler took for each sequence and token of the vocabulary.
        differs: Why the report differs from this version of vLLM, and in what.
    """

    model: str
    source: str
    weights: float | None = None
    loaded: float | None = None
    kv_memory: float | None = None
    kv_dtype: str = "auto"
    context: int | None = None
    fits: bool = True
    tokens: int | None = None
    blocks: int | None = None
    concurrency: float | None = None
    longest: int | None = None
    needed: float | None = None
    block_tokens: int | None = None
    total: float | None = None
    utilization: float = 0.9
    sequences: int = 256
    step_tokens: int | None = None
    without_windows: bool = False
    sampler_bytes: float = 20.0
    differs: str = ""


_SORTED = 38.5
_OLD = "until vLLM 0.7 a step had as many tokens as the context, and graphs came on top"

CASES = [
    Case(
        model="Llama-3.1-70B-w8a8",
        source=f"{_VLLM}/pull/12569",
        weights=67.7229,
        context=2048,
        blocks=1381,
        concurrency=10.79,
        total=79.2,
        utilization=0.98,
        sequences=128,
    ),
    Case(
        model="Llama-2-7b",
        source="https://github.com/kubernetes-sigs/gateway-api-inference-extension/pull/550",
        weights=12.55,
        kv_memory=56.18,
        blocks=7191,
        context=4096,
        total=79.19,
        sequences=2048,
        step_tokens=4096,
        sampler_bytes=_SORTED,
        differs=_OLD,
    ),
    Case(
        model="Llama-2-7b",
        source=f"{_VLLM}/pull/2031",
        blocks=7351,
        context=4096,
        total=79.2,
        step_tokens=4096,
        sampler_bytes=_SORTED,
        differs=_OLD,
    ),
    Case(
        model="Qwen2.5-7B-AWQ",
        source=f"{_VLLM}/issues/13882",
        weights=5.2032,
        kv_memory=-1.05,
        context=4096,
        fits=False,
        total=8.0,
        utilization=0.7,
        step_tokens=4096,
        blocks=0,
        sampler_bytes=_SORTED,
        differs=_OLD,
    ),
    Case(
        model="Llama-3-8B",
        source=f"{_VLLM}/pull/10511",
        weights=14.96,
        context=8192,
        total=79.22,
        step_tokens=8192,
        sampler_bytes=_SORTED,
        differs=f"{_OLD}; 1.79 GiB beside torch, which counted the context of CUDA",
    ),
    Case(
        model="Llama-3.1-8B",
        source=f"{_VLLM}/issues/10517#20k",
        weights=14.9888,
        kv_memory=3.81,
        blocks=1952,
        context=20_000,
        concurrency=1.56,
        total=23.58,
        step_tokens=20_000,
        sampler_bytes=_SORTED,
        differs=_OLD,
    ),
    Case(
        model="Llama-3.1-8B",
        source=f"{_VLLM}/issues/10517#29k",
        weights=14.9888,
        kv_memory=2.89,
        blocks=1478,
        context=29_000,
        concurrency=0.82,
        total=23.58,
        step_tokens=29_000,
        fits=False,
        longest=23_648,
        sampler_bytes=_SORTED,
        differs=_OLD,
    ),
    Case(
        model="R1-Distill-Qwen-1.5B",
        source=f"{_VLLM}/issues/12529",
        weights=3.3414,
        kv_memory=2.20,
        blocks=5148,
        context=2000,
        concurrency=41.18,
        total=7.75,
        step_tokens=2048,
        sampler_bytes=_SORTED,
        differs=_OLD,
    ),
    Case(
        model="Llama-3.1-8B",
        source=f"{_VLLM}/pull/17122",
        weights=14.9889,
        context=32_768,
        tokens=158_656,
        concurrency=4.84,
    ),
    Case(
        model="Qwen2.5-32B, half",
        source=f"{_VLLM}/issues/15815",
        kv_memory=7.71,
        blocks=3947,
        context=10_000,
        concurrency=6.32,
    ),
    Case(
        model="Gemma-3-1b",
        source=f"{_VLLM}/issues/14696",
        weights=1.9134,
        tokens=1_139_728,
        context=32_768,
        concurrency=34.78,
        without_windows=True,
        differs="this early version kept all tokens of layers with a window",
    ),
    Case(
        model="Qwen3-30B-A3B",
        source=f"{_VLLM}/issues/25350#100000",
        kv_memory=10.55,
        kv_dtype="fp8",
        context=100_000,
        tokens=230_528,
        concurrency=2.31,
    ),
    Case(
        model="Qwen3-30B-A3B",
        source=f"{_VLLM}/issues/25350#221000",
        kv_memory=5.59,
        kv_dtype="fp8",
        context=221_000,
        fits=False,
        needed=10.12,
        longest=122_080,
    ),
    Case(
        model="gpt-oss-120b",
        source=f"{_VLLM}/issues/23278",
        kv_memory=-2.14,
        context=131_072,
        fits=False,
    ),
    Case(
        model="gpt-oss-120b",
        source=f"{_VLLM}/issues/27508",
        kv_memory=1.71,
        context=131_072,
        fits=False,
    ),
    Case(
        model="Qwen3.6-35B-A3B",
        source=f"{_CLUB}/issues/612",
        kv_memory=5.98,
        kv_dtype="fp8",
        context=131_072,
        tokens=567_978,
        concurrency=4.33,
    ),
    Case(
        model="Qwen3.6-35B-A3B",
        source=f"{_CLUB}/issues/652",
        kv_memory=6.01,
        kv_dtype="fp8",
        context=131_072,
        tokens=569_878,
        concurrency=4.35,
    ),
    Case(
        model="Qwen3.8-27B",
        source=f"{_CLUB}/issues/1047",
        kv_dtype="fp8",
        block_tokens=1568,
    ),
    Case(
        model="Qwen3.8-27B, half",
        source="https://github.com/mitchross/talos-argocd-proxmox/pull/1995#131072",
        kv_memory=4.99,
        kv_dtype="fp8",
        context=131_072,
        tokens=302_921,
        concurrency=2.31,
        block_tokens=1568,
    ),
    Case(
        model="Qwen3.8-27B, half",
        source="https://github.com/mitchross/talos-argocd-proxmox/pull/1995#262144",
        kv_memory=4.99,
        kv_dtype="fp8",
        context=262_144,
    ),
    Case(
        model="Qwen3-Coder-480B",
        source="https://github.com/vllm-project/recipes/pull/12#0.9",
        kv_memory=48.66,
        context=262_144,
        fits=False,
        needed=62.0,
        longest=205_728,
    ),
    Case(
        model="Qwen3-Coder-480B",
        source="https://github.com/vllm-project/recipes/pull/12#0.95",
        kv_memory=55.65,
        context=262_144,
        fits=False,
        needed=62.0,
        longest=235_296,
    ),
    Case(
        model="MiniMax-M2.7, half",
        source="https://github.com/eugr/spark-vllm-docker/issues/396#0.8",
        kv_memory=22.5,
        context=196_608,
        fits=False,
        needed=23.25,
        longest=190_272,
    ),
    Case(
        model="MiniMax-M2.7, half",
        source="https://github.com/eugr/spark-vllm-docker/issues/396#0.85",
        context=196_608,
        tokens=240_816,
        concurrency=1.22,
        differs="its 28.74 GiB are those of one of two machines, and the smaller decides",
    ),
    Case(
        model="DeepSeek-V2-Lite",
        source=f"{_VLLM}/pull/4650",
        weights=29.3010,
        differs="this first version kept no second form of a matrix, and a table of 32 bits",
    ),
    Case(
        model="Qwen1.5-7B-GPTQ",
        source="https://github.com/QwenLM/Qwen3/issues/16",
        tokens=24_320,
        context=32_768,
        fits=False,
        total=23.69,
        step_tokens=32_768,
        longest=24_320,
        sampler_bytes=_SORTED,
        differs=_OLD,
    ),
    Case(
        model="Llama-3-8B-AWQ",
        source="https://volkdata.com/logs/001",
        weights=5.34,
        context=1024,
        total=8.0,
        utilization=0.86,
        step_tokens=1024,
        kv_memory=0.21,
        sampler_bytes=_SORTED,
        differs="a version that sorted to sample, and did not count graphs",
    ),
    Case(
        model="gpt-oss-20b",
        source="https://myoceane.fr/index.php/ai-vllm-a100-gemma-4/",
        kv_memory=36.56,
        context=131_072,
        total=79.25,
        utilization=0.65,
        step_tokens=2048,
        loaded=13.72,
        differs="this version did not count graphs",
    ),
]
