"""The configuration: one frozen tree of Structs (`schema`) and how it is loaded (`load`)."""

from vgate.config.load import ConfigError, load, masked
from vgate.config.runtime import Runtime
from vgate.config.schema import Config

__all__ = ["Config", "ConfigError", "Runtime", "load", "masked"]
