"""The configuration: one frozen tree of Structs (`schema`), loaded by `load`.

`topology` has the engines that follow from it, and `runtime` passes both to the child processes.
"""

from vgate.config.load import ConfigError, load, masked
from vgate.config.runtime import Runtime
from vgate.config.schema import Config
from vgate.config.topology import EngineSpec, local_engines

__all__ = ["Config", "ConfigError", "EngineSpec", "Runtime", "load", "local_engines", "masked"]
