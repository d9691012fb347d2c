"""What an instance consists of in each role: its topology, and its run directory."""

from collections.abc import Sequence

import msgspec

from vgate.config.runtime import EngineSpec, Role, default_run_dir, local_engines
from vgate.config.schema import Config

# Numbers of engines that aren't in the topology: a name stands for them, or they have joined.
FIRST_FOUND = 1_000


def run_dir_of(config: Config, role: Role) -> str:
    """Return the run directory. An engine has no HTTP port, so it goes by the one for frontends."""
    port = split_address(config.engine_link.listen)[1] if role == "engine" else config.server.port
    return config.server.run_dir or default_run_dir(port)


def topology(
    config: Config, run_dir: str, role: Role, gpus: Sequence[str] = ()
) -> list[EngineSpec]:
    """Return the engines of this host with its GPUs, then those of other hosts in the settings.

    Raises:
        ConfigError: The GPUs do not suffice.
    """
    local = [] if role == "frontend" else local_engines(config, run_dir, gpus)
    if role == "engine":
        host, port = split_address(config.engine_link.listen)
        return [
            msgspec.structs.replace(spec, address=f"tcp://{host}:{port + number}")
            for number, spec in enumerate(local)
        ]
    specs = list(local)
    for engine in config.engines:
        model = engine.model or config.model.name
        specs.append(
            EngineSpec(
                model=model,
                replica=sum(spec.model == model for spec in specs),
                address=engine.address,
                supervised=False,
                public_key=engine.public_key or "",
            )
        )
    return specs


def split_address(address: str) -> tuple[str, int]:
    """Return host and port of a tcp endpoint; an IPv6 address keeps its brackets."""
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host, int(port)
