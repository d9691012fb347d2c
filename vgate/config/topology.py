"""The engines of an instance: which model each one runs, and how to reach it."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from vgate.config.schema import Config, NonEmptyStr, Section


class EngineSpec(Section, frozen=True, kw_only=True):
    """One engine process. Several engines may run the same model; they are its replicas.

    Attributes:
        model: Name of the model: the first of its served names.
        replica: Its number among the engines of the model, from 0.
        address: ZeroMQ endpoint where it listens for frontends.
        supervised: Whether the launcher starts, watches and stops it. Frontends connect to any
            other engine at its address, and the launcher does nothing with it.
        environment: Environment variables that its process gets in addition to the launcher's.
    """

    model: NonEmptyStr
    replica: Annotated[int, Meta(ge=0)] = 0
    address: NonEmptyStr
    supervised: bool = True
    environment: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def title(self) -> str:
        """Its name for people."""
        return f"{self.model} (replica {self.replica})" if self.replica else self.model


def local_engines(config: Config, run_dir: str) -> list[EngineSpec]:
    """Return one supervised engine for each configured model, on this machine."""
    return [
        EngineSpec(model=model.name, address=f"ipc://{run_dir}/engine-{number}.sock")
        for number, model in enumerate(config.models)
    ]
