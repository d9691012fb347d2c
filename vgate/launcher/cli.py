"""The ``vgate`` command."""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Iterator

from vgate import __version__
from vgate import log as logs
from vgate.config import Config, ConfigError, Runtime, load, local_engines, masked
from vgate.config.checkpoint import CheckpointError, find_model
from vgate.config.runtime import DRY_RUN, VLLM
from vgate.launcher import keys_cli, open_files
from vgate.launcher.environments.start import dry_run_is_set
from vgate.launcher.keys_cli import EXIT_FAILED, EXIT_OK, EXIT_USAGE
from vgate.launcher.listeners import Listeners
from vgate.launcher.output import Output, unblocked
from vgate.launcher.prepared import prepared
from vgate.launcher.reload import cli as reload_cli
from vgate.launcher.run_dir import RunDir, StartError, default_run_dir
from vgate.log import Log

# Name, variable, metavar, help.
_FLAGS = (
    ("config", "VGATE_CONFIG_PATH", "FILE", "configuration (default: ./config.yaml)"),
    ("model", "VGATE_MODEL__MODEL_ID", "ID", "model.model_id: a directory or a Hub name"),
    ("host", "VGATE_SERVER__HOST", "HOST", "server.host"),
    ("port", "VGATE_SERVER__PORT", "PORT", "server.port"),
)

log = Log("vgate.launcher")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = _parser().parse_args(arguments)
    for flag, variable, *_ in _FLAGS:
        if (value := getattr(options, flag, None)) is not None:
            os.environ[variable] = value
    try:
        if options.command == "reload" and options.run_dir:
            return reload_cli.run(options.run_dir)
        config = load(os.environ)
        if options.command == "reload":
            return reload_cli.run(config.server.run_dir or default_run_dir(config.server.port))
        if options.command == "keys":
            return keys_cli.run(options, config.security.key_file)
        config = prepared(config)
    except ConfigError as error:
        print(f"vgate: {error}", file=sys.stderr)
        return EXIT_USAGE
    dry_run = getattr(options, "dry_run", False) or dry_run_is_set(os.environ)
    backend = DRY_RUN if dry_run else os.environ.get("VGATE_BACKEND") or VLLM
    return _check(config, backend) if options.command == "check" else _serve(config, backend)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vgate",
        description="Serve a model as an OpenAI-compatible endpoint, with vLLM on this machine.",
        epilog="Settings come from flags, the environment (VGATE_SECTION__KEY), config.yaml and "
        "defaults; the first that has one wins. `vgate check` prints the result.",
        parents=[_settings()],
    )
    parser.add_argument("--version", action="version", version=f"vgate {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, what in (
        ("serve", "serve; the default"),
        ("check", "check the configuration and print it"),
        ("keys", "add, list, revoke, rotate API keys"),
        ("reload", "have a running instance take over a changed configuration"),
    ):
        command = commands.add_parser(name, help=what, parents=[_settings()])
        if name == "keys":
            keys_cli.configure(command)
        elif name == "reload":
            reload_cli.configure(command)
    return parser


def _settings() -> argparse.ArgumentParser:
    """Return the flags that may come before or after a command; absent ones have no default."""
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="serve a simulated engine that repeats the last message: no GPU, no model "
        "(also VGATE_DRY_RUN=1)",
    )
    for flag, _, metavar, what in _FLAGS:
        parser.add_argument(f"--{flag}", metavar=metavar, help=what)
    return parser


def _check(config: Config, backend: str) -> int:
    import yaml

    problems = [*_model_problems(config)] if backend == VLLM else []
    verdict = "can't be served, see below" if problems else "is valid"
    text = yaml.safe_dump(masked(config), sort_keys=False, allow_unicode=True)
    with contextlib.suppress(BrokenPipeError):  # as in `vgate check | head`
        print(f"{text}# The configuration {verdict}.", flush=True)
    for problem in problems:
        print(f"vgate: {problem}", file=sys.stderr)
    return EXIT_USAGE if problems else EXIT_OK


def _model_problems(config: Config) -> Iterator[CheckpointError]:
    """Yield what is wrong with the models' directories, in the words of the engine."""
    for model in config.models:
        try:
            find_model(model)
        except CheckpointError as error:
            yield error


def _serve(config: Config, backend: str) -> int:
    with unblocked() as output:
        return _supervise(config, backend, output)


def _supervise(config: Config, backend: str, output: Output | None) -> int:
    from vgate.launcher.console import Console
    from vgate.launcher.supervisor import GaveUpError, Supervisor
    from vgate.wire.sockets import EndpointError

    settings = config.logging
    logs.configure("launcher", level=settings.level, json_format=settings.json_format)
    run_dir = listeners = None
    try:
        open_files.allow(config)
        listeners = Listeners(config.server)
        run_dir = RunDir(config.server.run_dir or default_run_dir(config.server.port))
        runtime = Runtime(
            config=config,
            backend=backend,
            run_dir=str(run_dir.path),
            engines=local_engines(config, str(run_dir.path)),
            started=time.time(),
        )
        try:
            runtime.write()
        except OSError as error:
            reason = f"cannot write to the run directory {run_dir.path}: {error.strerror}"
            raise StartError(f"{reason}; make room, or set server.run_dir to another") from None
        if not config.security.enabled and not config.server.is_local:
            log.warning(
                "EVERYBODY who reaches this address may use the server: security.enabled is false",
                host=config.server.host,
            )
        Supervisor(runtime, Console(runtime), listeners, output).run()
    except (StartError, EndpointError) as error:
        print(f"vgate: {error}", file=sys.stderr)
        return EXIT_FAILED
    except GaveUpError as error:
        log.error("giving up", cause=error)
        print(f"\nvgate: {error}", file=sys.stderr)
        return EXIT_FAILED
    finally:
        if listeners is not None:
            listeners.close()
        if run_dir is not None:
            run_dir.remove()
    log.info("stopped")
    return EXIT_OK
