"""The ``vgate`` command."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
import time
from pathlib import Path

import msgspec

from vgate import __version__
from vgate import log as logs
from vgate.config import Config, ConfigError, Runtime, load, local_engines, masked
from vgate.keys import KeyRing, KeysError, hash_key
from vgate.launcher import keys_cli
from vgate.launcher.environments.start import dry_run_is_set
from vgate.launcher.run_dir import RunDir, RunDirError, default_run_dir
from vgate.log import Log

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2

_LOOPBACK = {"127.0.0.1", "::1", "localhost"}
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
        if (value := getattr(options, flag, None)) is not None:
            os.environ[variable] = value
    try:
        config = load(os.environ)
        if options.command == "keys":
            return keys_cli.run(options, config.security.key_file)
        config = _prepare_security(config)
    except ConfigError as error:
        print(f"vgate: {error}", file=sys.stderr)
        return EXIT_USAGE
    if options.command == "check":
        return _check(config)
    dry_run = getattr(options, "dry_run", False) or dry_run_is_set(os.environ)
    return _serve(config, "dry_run" if dry_run else os.environ.get("VGATE_BACKEND") or "vllm")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vgate",
        description="Serve a model as an OpenAI-compatible endpoint, with vLLM on this machine.",
        epilog="Settings come from flags, the environment (VGATE_SECTION__KEY), config.yaml and "
        "defaults, in this order. `vgate check` prints what is in force.",
        parents=[_settings()],
    )
    parser.add_argument("--version", action="version", version=f"vgate {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, what in (
        ("serve", "serve; the default"),
        ("check", "check the configuration and print what is in force"),
    ):
        commands.add_parser(name, help=what, parents=[_settings()])
    keys = commands.add_parser(
        "keys", help="add, list, revoke, rotate API keys", parents=[_settings()]
    )
    keys_cli.configure(keys)
    return parser


def _settings() -> argparse.ArgumentParser:
    """Return the flags that may stand before and after a command; absent ones leave no trace."""
    parser = argparse.ArgumentParser(add_help=False, argument_default=argparse.SUPPRESS)
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
    return parser


def _prepare_security(config: Config) -> Config:
    """Check the keys, and keep only their hashes from here on.

    Raises:
        ConfigError: Security is on, and there is no key or a broken one.
    """
    security = config.security
    if not security.enabled:
        return config
    key_file = Path(security.key_file).absolute() if security.key_file else None
    try:
        ring = KeyRing.build(security.api_keys, key_file)
    except KeysError as error:
        raise ConfigError(str(error)) from None
    if not len(ring):
        message = (
            "security.enabled is true and there are no keys, so nobody could use the server: add "
            "one to security.api_keys, or set security.key_file and run `vgate keys add NAME`"
        )
        raise ConfigError(message)
    hashed = [
        key
        if key.key is None
        else msgspec.structs.replace(key, key=None, key_sha256=hash_key(key.key))
        for key in security.api_keys
    ]
    security = msgspec.structs.replace(
        security, api_keys=hashed, key_file=str(key_file) if key_file else None
    )
    return msgspec.structs.replace(config, security=security)


def _warn_if_open(config: Config) -> None:
    host = config.server.host
    if not config.security.enabled and host not in _LOOPBACK:
        log.warning(
            "EVERYBODY who reaches this address may use the server: security.enabled is false",
            host=host,
        )


def _check(config: Config) -> int:
    import yaml

    text = yaml.safe_dump(masked(config), sort_keys=False, allow_unicode=True)
    with contextlib.suppress(BrokenPipeError):  # as in `vgate check | head`
        print(f"{text}# The configuration is valid.", flush=True)
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
        runtime = Runtime(
            config=config,
            backend=backend,
            run_dir=str(run_dir.path),
            engines=local_engines(config, str(run_dir.path)),
            started=time.time(),
        )
        runtime.write()
        _warn_if_open(config)
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
