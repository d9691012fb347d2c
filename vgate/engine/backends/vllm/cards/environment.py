"""The environment that vLLM and torch read at import, because of the card and the machine. Pure."""

from collections.abc import Collection, Mapping

from vgate.config.model import Model
from vgate.engine.backends.base import BackendError

# torch's own, the first that is set counts (vllm/device_allocator/alloc_conf.py).
_ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF")
_EXPANDABLE = "expandable_segments:True"
# Those that VLLM_PLUGINS is for (vllm/plugins/__init__.py).
PLUGIN_GROUPS = (
    *("vllm.general_plugins", "vllm.platform_plugins"),
    *("vllm.io_processor_plugins", "vllm.stat_logger_plugins"),
)
# vLLM's plugins that bring a format of weights: their names, those of `model.quantization`.
FORMAT_PLUGINS = ("bitsandbytes", "gguf")
# With these vLLM has an allocator of its own.
_SLEEP = ("enable_sleep_mode", "enable_cumem_allocator")


def card_environment(
    model: Model, environ: Mapping[str, str], *, cpu: bool, wsl: bool
) -> dict[str, str]:
    """Return variables to set, unless they are set already.

    Raises:
        BackendError: A setting contradicts another.
    """
    found: dict[str, str] = {}
    if cpu:
        return found
    transfers = bool(model.kv_offload_gib or model.engine_args.get("kv_transfer_config"))
    if _has_expandable_segments(model, wsl=wsl, transfers=transfers) and not any(
        environ.get(name) for name in _ALLOCATOR
    ):
        found[_ALLOCATOR[0]] = _EXPANDABLE
    if wsl and (model.weights_offload_gib or model.kv_offload_gib):
        # vLLM pins nothing in WSL2 by itself, because each token takes a little longer then.
        found["VLLM_WSL2_ENABLE_PIN_MEMORY"] = "1"
    return found


def _has_expandable_segments(model: Model, *, wsl: bool, transfers: bool) -> bool:
    wanted = model.expandable_segments
    if wanted and transfers:
        # vllm/config/vllm.py refuses it, as the memory of the KV cache may move.
        raise BackendError(
            "model.expandable_segments can't be true while the KV cache is offloaded or "
            "transferred: unset it"
        )
    if wanted is not None:
        return wanted
    workers = model.tensor_parallel_size * model.pipeline_parallel_size
    # WSL2's driver refuses the mapping (https://github.com/pytorch/pytorch/issues/192330), and what
    # GPUs share with each other can't be mapped so.
    sleeps = any(model.engine_args.get(name) for name in _SLEEP)
    return not (wsl or transfers or sleeps or workers > 1)


def wanted_plugins(installed: Collection[str], formats: Collection[str]) -> str | None:
    """Return vLLM's VLLM_PLUGINS: all that are installed but for formats that aren't needed.

    None if nothing has to be left out. They change vLLM's classes, so an engine has its own only.
    """
    left_out = {name for name in installed if name in FORMAT_PLUGINS and name not in formats}
    return ",".join(sorted(set(installed) - left_out)) if left_out else None
