"""The ``vgate`` command."""

import contextlib
import importlib
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from vgate import log as logs
from vgate.commands.arguments import COMMANDS, ROLE_SETTINGS, SETTINGS, read
from vgate.commands.command import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    run_command,
)
from vgate.commands.flags.file import taken_apart
from vgate.commands.flags.vllm import translate
from vgate.config import (
    Config,
    ConfigError,
    Runtime,
    load,
    masked,
    unknown_variables,
)
from vgate.config.load import DEFAULT_FILE
from vgate.config.model import Model
from vgate.config.roles import run_dir_of, topology
from vgate.config.runtime import DRY_RUN, VLLM, Role
from vgate.config.variables import CONFIG_PATH
from vgate.launcher import listeners, resource_limits
from vgate.launcher.checks import Checked
from vgate.launcher.environments.start import dry_run_is_set, open_missing_streams
from vgate.launcher.output import JSONLines, Output, unblocked
from vgate.launcher.run_dir import RunDir, StartError
from vgate.launcher.terminal.log_file import LogFile, kept
from vgate.log import Log
from vgate.state_link import problems as state_problems

log = Log("vgate.launcher")

_NOT_KEPT = "usage, logs, stored responses and learned values can't be kept in the state directory"


def main(arguments: list[str] | None = None, *, only_look: bool = False) -> int:
    """Run the command; return the exit status.

    With `only_look` nothing is served: it says what is wrong, if anything is.
    """
    open_missing_streams()
    translation = translate(*taken_apart(sys.argv[1:] if arguments is None else arguments))
    options = read(translation.arguments)
    os.environ.update(translation.variables)
    flags = {f"(from {name})": f"(from {flag})" for name, flag in translation.flags.items()}
    for flag, variable, *_ in (*SETTINGS, *ROLE_SETTINGS.get(options.command, ())):
        if (value := getattr(options, flag, None)) is not None:
            os.environ[variable] = _listed(value) if flag == "engines" else value
            flags[f"(from {variable})"] = f"(from --{flag})"
    role: Role = options.command if options.command in ROLE_SETTINGS else "serve"
    module = COMMANDS[options.command or "serve"][1]
    try:
        if module is not None:
            # `vgate join` looks for itself, once it knows what it is to serve.
            return EXIT_OK if only_look else run_command(importlib.import_module(module), options)
        config = load(os.environ)
    except ConfigError as error:
        return refuse([_by_flags(problem, flags) for problem in error.problems], EXIT_USAGE)
    if getattr(options, "probe", None):
        from vgate.launcher.hosts.probe import probe

        return probe(run_dir_of(config, role), options.probe)
    dry_run = getattr(options, "dry_run", False) or dry_run_is_set(os.environ)
    backend = DRY_RUN if dry_run else os.environ.get("VGATE_BACKEND") or VLLM
    if backend == VLLM and role == "serve":
        config = _with_model(config, ask=options.command != "check", tell=not only_look)
    if not only_look:
        _tell(config, translation.notes)
    found = Checked(config, backend, role)
    if options.command == "check":
        return _check(found, foresees=backend == VLLM and role != "frontend")
    if found.wrong:
        _configure_log(config)
        as_json = config.logging.json_format
        return refuse(found.wrong + found.in_the_way, EXIT_USAGE, as_json=as_json)
    if only_look:
        return refuse(found.in_the_way, EXIT_FAILED) if found.in_the_way else EXIT_OK
    if not os.environ.get(CONFIG_PATH) and Path(DEFAULT_FILE).exists():
        # So a reload is refused if the file is gone by then: the defaults require no key.
        os.environ[CONFIG_PATH] = DEFAULT_FILE
    return serve(found, backend, role)


def _by_flags(problem: str, flags: dict[str, str]) -> str:
    """Return a problem in which each variable that a flag has set is named by the flag."""
    for variable, flag in flags.items():
        problem = problem.replace(variable, flag)
    return problem


def _listed(addresses: str) -> str:
    """Return the setting for a list of addresses with commas between them."""
    return json.dumps([{"address": address} for address in addresses.split(",")])


def _with_model(config: Config, *, ask: bool, tell: bool) -> Config:
    """Return the configuration with a model where it has none of its own; say which it is."""
    if config.model.model_id != Model().model_id:
        return config
    from vgate.launcher.terminal import proposal

    if not proposal.is_open(config):
        return config
    config, note = proposal.choose(config, ask=ask)
    if ask and tell:
        _tell(config, [note])
    return config


def _tell(config: Config, notes: Sequence[str]) -> None:
    if config.logging.json_format:
        _configure_log(config)
    for note in notes:
        if config.logging.json_format:
            log.info(note)
        else:
            print(f"vgate: {note}", file=sys.stderr)


def _configure_log(config: Config) -> None:
    """Have the log written to what `sys.stderr` is now."""
    settings = config.logging
    logs.configure("launcher", level=settings.level, json_format=settings.json_format)


def _check(found: Checked, *, foresees: bool) -> int:
    import yaml

    from vgate.sizing.foreseen import foreseen

    for unknown in unknown_variables(os.environ):
        print(f"vgate: {unknown}", file=sys.stderr)
    if not found.wrong:
        found.in_the_way += state_problems(found.config.state)
    if problems := found.wrong + found.in_the_way:
        return refuse(problems, EXIT_USAGE if found.wrong else EXIT_FAILED)
    text = yaml.safe_dump(masked(found.config), sort_keys=False, allow_unicode=True)
    notes = [f"Chosen now: {line}" for line in (foreseen(found.config) if foresees else [])]
    if not found.config.server.keeps_state:
        notes.insert(0, f"{_NOT_KEPT}: {found.config.server.state_path}; set server.state_dir.")
    if found.running:
        running = f"An instance runs in {found.running}; `vgate reload` has it take this over."
        notes.insert(0, running)
    with contextlib.suppress(BrokenPipeError):  # as in `vgate check | head`
        print(
            f"{text}# The configuration is valid.\n" + "".join(f"# {note}\n" for note in notes),
            end="",
            flush=True,
        )
    return EXIT_OK


def refuse(problems: Sequence[str], status: int, *, as_json: bool = False) -> int:
    """Report what is wrong; return the exit status."""
    for problem in problems:
        if as_json:
            log.error("this can't be served", problem=problem)
        else:
            print(f"vgate: {problem}", file=sys.stderr)
    return status


def serve(found: Checked, backend: str, role: Role) -> int:
    """Serve with a configuration with which nothing is wrong; return the exit status."""
    kind = JSONLines if found.config.logging.json_format else Output
    with unblocked(kind) as terminal, kept(found.config, terminal) as output:
        return _supervise(found, backend, role, output)


def _supervise(found: Checked, backend: str, role: Role, output: Output | None) -> int:
    from vgate.launcher.child import GaveUpError
    from vgate.launcher.supervisor import Supervisor
    from vgate.launcher.terminal.console import Console
    from vgate.wire.sockets import EndpointError

    config = found.config
    _configure_log(config)
    for unknown in unknown_variables(os.environ):
        log.warning("an unknown variable is ignored", name=unknown.name, hint=unknown.instead)
    run_dir, sockets = None, []
    try:
        resource_limits.check_memory()
        most_connections = resource_limits.allow_files(config)
        sockets = [] if role == "engine" else listeners.listen(config.server)
        run_dir = RunDir(run_dir_of(config, role))
        runtime = Runtime(
            config=config,
            backend=backend,
            run_dir=str(run_dir.path),
            engines=topology(config, str(run_dir.path), role, found.gpus),
            started=time.time(),
            most_connections=most_connections,
            log_file=str(output.path) if isinstance(output, LogFile) else "",
            role=role,
        )
        try:
            runtime.write()
        except OSError as error:
            reason = f"cannot write to the run directory {run_dir.path}: {error.strerror}"
            raise StartError(f"{reason}; make room, or set server.run_dir to another") from None
        if role != "engine":
            listeners.warn_if_open(config)
        if not config.server.keeps_state:
            log.warning(_NOT_KEPT, path=config.server.state_path, hint="set server.state_dir")
        console = Console(runtime)
        if isinstance(output, LogFile) and console.live:
            output.show = console.show
        Supervisor(runtime, console, sockets, output).run()
    except (StartError, EndpointError, GaveUpError) as error:
        _tell_failure(config, error)
        return EXIT_FAILED
    except KeyboardInterrupt:
        print("vgate: stopped before it had started", file=sys.stderr)
        return EXIT_INTERRUPTED
    finally:
        listeners.close(sockets)
        if run_dir is not None:
            run_dir.remove()
    log.info("stopped")
    return EXIT_OK


def _tell_failure(config: Config, error: Exception) -> None:
    if config.logging.json_format:
        log.error("giving up", cause=error)
    else:
        print(f"vgate: {error}", file=sys.stderr)
