"""Exact limits of API keys, shared by all workers.

`Limiter` is what the rest of the frontend uses; `LocalLimiter` keeps the counts on this machine.
"""

from vgate.frontend.access.limiter.local import LocalLimiter
from vgate.frontend.access.limiter.port import Decision, Grant, KeyLimits, Limiter, Quota, Usage

__all__ = ["Decision", "Grant", "KeyLimits", "Limiter", "LocalLimiter", "Quota", "Usage"]
