"""The configuration: one frozen tree of Structs (`schema`), loaded and checked by `load`.

`runtime` has what the launcher passes to its children: the configuration and the topology.
"""

from vgate.config.changes import Changes, changes
from vgate.config.load import ConfigError, load, masked
from vgate.config.runtime import EngineSpec, Runtime, local_engines
from vgate.config.schema import Config
from vgate.config.variables import unknown_variables, without_settings

__all__ = [
    "Changes",
    "Config",
    "ConfigError",
    "EngineSpec",
    "Runtime",
    "changes",
    "load",
    "local_engines",
    "masked",
    "unknown_variables",
    "without_settings",
]
