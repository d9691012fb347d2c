"""vLLM's sleep mode: a model's process stays, and most of its GPU memory is free for others.

At level 1 the weights wait in the machine's memory, at level 2 they are read again from the files.
The KV cache is dropped at both. What stays on the GPU is what CUDA takes for a process, and graphs.
"""

from pathlib import Path
from typing import Any, Literal

from vllm.utils.cpu_resource_utils import get_allowed_cpu_list, get_memory_node_info

from vgate.log import Log

# Of the machine's memory that is free, for the weights; the rest is the page cache's and others'.
_SHARE = 0.6

Level = Literal[0, 1, 2]

log = Log("vgate.engine.vllm")


class SleepMode:
    """Puts a core to sleep, and wakes it.

    Args:
        core: vLLM's EngineCore.
        vllm_config: Its configuration.
        directory: The model's directory.
    """

    def __init__(self, core: Any, vllm_config: Any, directory: Path) -> None:
        self._core = core
        self._possible: bool = vllm_config.model_config.enable_sleep_mode
        # vLLM changes quantized weights after it has read them, and forgets adapters.
        plain = vllm_config.quant_config is None and vllm_config.lora_config is None
        self._read_again = plain
        self._directory = directory
        self._level: Level = 0

    def begin(self) -> bool:
        """Sleep; return whether that can be."""
        if not self._possible:
            return False
        weights = sum(path.stat().st_size for path in self._directory.glob("*.safetensors"))
        free: int = get_memory_node_info(get_allowed_cpu_list()[0].numa_node).available_memory
        self._level = level_for(weights, free, read_again=self._read_again)
        if not self._level:
            log.warning("no sleep: too little memory for the weights", weights=weights, free=free)
            return False
        self._core.sleep(self._level)
        log.info("asleep", level=self._level)
        return True

    def end(self) -> None:
        """Wake it."""
        if self._level == 2:
            self._core.wake_up(["weights"])
            self._core.collective_rpc("reload_weights")
            self._core.wake_up(["kv_cache"])
        else:
            self._core.wake_up()


def level_for(weights: int, free: int, *, read_again: bool) -> Level:
    """Return at which level a model sleeps; 0: it can't.

    Args:
        weights: Their size in bytes.
        free: How much of the machine's memory is.
        read_again: Whether vLLM can read the weights into the model that is there.
    """
    if weights and weights <= free * _SHARE:
        return 1
    return 2 if read_again else 0
