"""What keeps a configuration from being served, found before anything is started or installed."""

import os
from pathlib import Path

from vgate.config import Config, ConfigError
from vgate.config.devices import place, uses_devices
from vgate.config.models import catalogue, model_problems
from vgate.config.models.parallel import gpu_problems, is_split
from vgate.config.roles import run_dir_of
from vgate.config.runtime import DRY_RUN, VLLM, Role
from vgate.launcher.engines.gpus import visible_gpus
from vgate.launcher.hosts.links import link_problems
from vgate.launcher.listeners import check_port
from vgate.launcher.prepared import prepared
from vgate.launcher.residency.memory import residency_problems, with_memory
from vgate.launcher.run_dir import StartError, check_run_dir


class Checked:
    """A configuration with all that is wrong with it.

    Attributes:
        config: As the processes get it, if nothing is `wrong`.
        wrong: What has to be changed in the configuration, or at the files that it names.
        in_the_way: What keeps it from being served here and now.
        gpus: Those that replicas and parts of models are spread over; none if none need to be.
        running: The run directory of the instance that runs there already; None if none does.
    """

    def __init__(self, config: Config, backend: str, role: Role = "serve") -> None:
        self.config = config
        self.wrong: list[str] = []
        self.in_the_way: list[str] = []
        self.running: str | None = None
        known = backend == VLLM and (uses_devices(config) or is_split(config))
        self.gpus = visible_gpus(os.environ) if known else []
        try:
            self.config = prepared(config)
        except ConfigError as error:
            self.wrong += error.problems
        self.wrong += link_problems(config, role)
        if backend == VLLM and role != "frontend":
            self.wrong += _not_fitting(config)
        # Frontends get what they need of the model from its engine.
        if role != "frontend":
            self._check_engines(self.config, backend, role)
        self._check_place(config, role)

    def _check_engines(self, config: Config, backend: str, role: Role) -> None:
        try:
            placed = place(config, self.gpus)
            self.config = with_memory(self.config, backend)
            self.wrong += residency_problems(self.config, backend, role, placed)
        except ConfigError as error:
            self.wrong += error.problems
        if backend == VLLM:
            self.wrong += [*model_problems(config), *gpu_problems(config, self.gpus)]
        if backend == DRY_RUN and (script := config.dry_run.script):
            try:
                Path(script).read_bytes()
            except OSError as error:
                self.wrong.append(f"dry_run.script: cannot read {script}: {error.strerror}")

    def _check_place(self, config: Config, role: Role) -> None:
        run_dir = run_dir_of(config, role)
        try:
            if check_run_dir(run_dir):
                self.running = os.path.abspath(run_dir)  # noqa: PTH100 - as a text
                return
        except StartError as error:
            self.in_the_way.append(str(error))
        try:
            if role != "engine":
                check_port(config.server)
        except StartError as error:
            self.in_the_way.append(str(error))


def _not_fitting(config: Config) -> list[str]:
    """Return why models that are configured by short names don't fit this machine."""
    if not any(catalogue.entry(model.model_id) for model in config.all_models):
        return []
    from vgate.fit.short_names import problem

    return list(filter(None, map(problem, config.all_models)))
