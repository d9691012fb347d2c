"""How a command runs and ends: its configuration, its exit status, its errors."""

import argparse
import io
import os
import sys
from typing import Protocol

from vgate.commands.text import plain
from vgate.config import Config, ConfigError, load

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_NO_SERVER = 3
EXIT_INTERRUPTED = 130


class CommandError(Exception):
    """A command can't do what is asked; the message says what to do, in one sentence."""

    def __init__(self, message: str, status: int = EXIT_FAILED) -> None:
        super().__init__(message)
        self.status = status


class Command(Protocol):
    """What a module of the table in `arguments` has.

    With `NEEDS_CONFIG = False` it runs with the defaults where the configuration can't be used.
    """

    def configure(self, parser: argparse.ArgumentParser) -> None:
        """Add the command's arguments."""

    def run(self, options: argparse.Namespace, config: Config) -> int | None:
        """Run the command; return the exit status, or None if all is well."""


def run_command(command: Command, options: argparse.Namespace) -> int:
    """Run a command; report its error and return the exit status.

    Raises:
        ConfigError: The configuration can't be used, and the command needs it.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        # What the terminal can't show is no reason to end.
        sys.stdout.reconfigure(errors="replace")
    try:
        status = command.run(options, _configuration(command, options)) or EXIT_OK
        sys.stdout.flush()
    except CommandError as error:
        sys.stderr.write(f"vgate: {plain(error)}\n")  # it may be in a server's words
        return error.status
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # as in `vgate logs | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    return status


def _configuration(command: Command, options: argparse.Namespace) -> Config:
    try:
        return load(os.environ)
    except ConfigError:
        # A server or an instance that is named otherwise needs no configuration on this machine.
        named = any(getattr(options, name, None) for name in ("url", "run_dir"))
        if named or not getattr(command, "NEEDS_CONFIG", True):
            return Config()
        raise
