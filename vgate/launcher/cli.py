"""The ``vgate`` command."""

from __future__ import annotations

import argparse
import os
import socket
import sys

from vgate import __version__
from vgate import log as logs
from vgate.config import Config, ConfigError, Runtime, load, masked
from vgate.launcher.run_dir import RunDir, RunDirError, default_run_dir
from vgate.log import Log

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

_TRUE = {"1", "true", "yes", "on"}
_FLAGS = {
    "config": "VGATE_CONFIG_PATH",
    "host": "VGATE_SERVER__HOST",
    "port": "VGATE_SERVER__PORT",
    "model": "VGATE_MODEL__MODEL_ID",
}

log = Log("vgate.launcher")


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    options = _parser().parse_args(arguments)
    for flag, variable in _FLAGS.items():
        if (value := getattr(options, flag)) is not None:
            os.environ[variable] = value
    try:
        config = load(os.environ)
        _check_available(config)
    except ConfigError as error:
        print(f"vgate: {error}", file=sys.stderr)
        return EXIT_USAGE
    if options.command == "check":
        return _check(config)
    dry_run = options.dry_run or os.environ.get("VGATE_DRY_RUN", "").lower() in _TRUE
    return _serve(config, "dry_run" if dry_run else "vllm")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vgate",
        description="Serve a model as an OpenAI-compatible endpoint, with vLLM on this machine.",
        epilog="Settings come from flags, the environment (VGATE_SECTION__KEY), config.yaml and "
        "defaults, in this order. `vgate check` prints what is in force.",
    )
    parser.add_argument(
        "command",
        nargs="?",
        choices=("serve", "check"),
        default="serve",
        help="serve (the default), or check the configuration and print it",
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="serve a simulated engine that repeats what it is told: no GPU, no model "
        "(also VGATE_DRY_RUN=1)",
    )
    parser.add_argument("--config", metavar="FILE", help="configuration (default: ./config.yaml)")
    parser.add_argument("--model", metavar="ID", help="model.model_id: a directory or a Hub name")
    parser.add_argument("--host", help="server.host")
    parser.add_argument("--port", help="server.port")
    parser.add_argument("--version", action="version", version=f"vgate {__version__}")
    return parser


def _check_available(config: Config) -> None:
    """Refuse what would be configured in vain.

    Raises:
        ConfigError: API keys are switched on.
    """
    if config.security.enabled:
        message = (
            "security.enabled: API keys and rate limits are not part of this version; it would "
            "serve everybody. Set it to false and put the server behind something that checks keys"
        )
        raise ConfigError(message)


def _check(config: Config) -> int:
    import yaml

    print(yaml.safe_dump(masked(config), sort_keys=False, allow_unicode=True), end="")
    print("# The configuration is valid.")
    return EXIT_OK


def _serve(config: Config, backend: str) -> int:
    from vgate.launcher.console import Console
    from vgate.launcher.supervisor import GaveUpError, Supervisor
    from vgate.wire.sockets import EndpointError

    settings = config.logging
    logs.configure("launcher", level=settings.level, json_format=settings.json_format)
    run_dir = None
    try:
        _check_port(config)
        run_dir = RunDir(config.server.run_dir or default_run_dir(config.server.port))
        runtime = Runtime(config=config, backend=backend, run_dir=str(run_dir.path))
        runtime.write()
        Supervisor(runtime, Console(runtime)).run()
    except (RunDirError, EndpointError, PortError) as error:
        print(f"vgate: {error}", file=sys.stderr)
        return EXIT_FAILED
    except GaveUpError as error:
        log.error("giving up", cause=error)
        print(f"\nvgate: {error}", file=sys.stderr)
        return EXIT_FAILED
    finally:
        if run_dir is not None:
            run_dir.remove()
    log.info("stopped")
    return EXIT_OK


class PortError(Exception):
    """The server can't listen where it is told to."""


def _check_port(config: Config) -> None:
    """Find out that the port is taken before a model is loaded for minutes.

    The frontends share the port (SO_REUSEPORT), which would share it with a stranger of the same
    user as well; binding without that option shows whether anybody is there.

    Raises:
        PortError: With what to do.
    """
    host, port = config.server.host, config.server.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
    except OSError as error:
        message = (
            f"cannot listen on {host}:{port}: {error.strerror or error}; "
            "set server.host or server.port (--port) to another"
        )
        raise PortError(message) from None
