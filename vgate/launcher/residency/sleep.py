"""Unloaded models whose process stays and sleeps, by vLLM's sleep mode, so that they are back soon.

They give back their memory but for what CUDA keeps for a process. So only a few may sleep, and what
they keep is taken off the memory that models share, from the start.
"""

from collections.abc import Iterable, Mapping

import msgspec

from vgate.config import Config
from vgate.config.model import Model
from vgate.config.runtime import DRY_RUN
from vgate.config.section import MIB
from vgate.fit.gpu import GIB, Card

# A context with its kernels and CUDA graphs. Not measured here, and rather too much.
_ASLEEP_BYTES = GIB
_DRY_RUN_ASLEEP_BYTES = 16 * MIB
# Sleeping models keep at most this part of the memory together: one on a card of 12 GiB.
_SHARE = 1 / 12


def with_sleep(config: Config, backend: str, card: Card | None) -> Config:
    """Return the configuration with how models are unloaded, `sleep` or `stop`.

    `card` is the smallest GPU; without one, vLLM has no sleep mode.
    """
    unload = config.residency.unload
    if card is None and (backend != DRY_RUN or unload == "auto"):
        unload = "stop"
    elif unload == "auto":
        unload = "sleep" if card and card.total * _SHARE >= _ASLEEP_BYTES else "stop"
    return _unloading(config, unload, arguments=backend != DRY_RUN)


def as_running(running: Config, wanted: Config) -> Config:
    """Return the wanted configuration with how the running one unloads models, if it may say so."""
    if wanted.residency.unload not in ("auto", running.residency.unload):
        return wanted
    arguments = any("enable_sleep_mode" in model.engine_args for model in running.all_models)
    return _unloading(wanted, running.residency.unload, arguments=arguments)


def _unloading(config: Config, unload: str, *, arguments: bool) -> Config:
    residency = msgspec.structs.replace(config.residency, unload=unload)
    config = msgspec.structs.replace(config, residency=residency)
    if unload != "sleep" or not arguments:
        return config

    def sleeping(model: Model) -> Model:
        if model.load == "pinned":
            return model
        given = {"enable_sleep_mode": True, **model.engine_args}
        return msgspec.structs.replace(model, engine_args=given)

    return config.with_models(sleeping)


def places(config: Config, backend: str, totals: Iterable[int]) -> int:
    """Return how many models may sleep at once, where so much memory is for models."""
    if config.residency.unload != "sleep":
        return 0
    return max(1, int(min(totals) * _SHARE) // _kept(backend))


def without_sleepers(totals: Mapping[str, int], count: int, backend: str) -> dict[str, int]:
    """Return what is left of each device's memory beside so many sleeping models."""
    return {device: total - count * _kept(backend) for device, total in totals.items()}


def _kept(backend: str) -> int:
    return _DRY_RUN_ASLEEP_BYTES if backend == DRY_RUN else _ASLEEP_BYTES
