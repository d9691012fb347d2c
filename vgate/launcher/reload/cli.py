"""``vgate reload``: asks a running instance to read its configuration again."""

import argparse
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from vgate.commands.command import EXIT_FAILED, EXIT_OK
from vgate.commands.text import note
from vgate.config import Config
from vgate.config.runtime import default_run_dir
from vgate.wire.codec import WireError, decode_reloaded, encode
from vgate.wire.control import Reload, Reloaded, ToLauncher
from vgate.wire.sockets import Dealer, EndpointError

_SOCKET = "control.sock"
_OF_THE_SERVICE = "/run/vgate"
_POLL_S = 0.05
# A hand-over has limits of its own, after which there is an answer.
_ANSWER_S = 600.0

Answer = TypeVar("Answer")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``vgate reload`` to `parser`."""
    parser.description = (
        "Have a running instance read its configuration again, with the environment and the flags "
        "of its start. New frontends replace the earlier ones, which finish their requests; no "
        "connection is refused. An invalid configuration changes nothing. The engine stays, so its "
        "settings and server.host, port and workers need a restart; the command lists those that "
        "changed. SIGHUP to a service does the same."
    )
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        help="run directory of the instance (default: from server.run_dir and server.port)",
    )


def run(options: argparse.Namespace, config: Config) -> int:
    """Ask the instance; return the exit status."""
    run_dir = options.run_dir or config.server.run_dir or default_run_dir(config.server.port)
    try:
        outcome = ask(run_dir, Reload(), decode_reloaded, _ANSWER_S)
    except AskError as error:
        outcome = Reloaded(False, str(error))
    note(outcome.text)
    return EXIT_OK if outcome.done else EXIT_FAILED


class AskError(Exception):
    """The launcher gives no answer; the message says why."""


def ask(
    run_dir: str, message: ToLauncher, decode: Callable[[bytes], Answer], answer_s: float
) -> Answer:
    """Send a message to the launcher of the instance in a run directory; return its answer.

    Raises:
        AskError: It gives none within `answer_s`.
    """
    endpoint = Path(run_dir).absolute() / _SOCKET
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(endpoint))
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        raise AskError(f"no V-Gate runs in {run_dir}; {_others(run_dir)}") from None
    except OSError as error:
        raise AskError(f"cannot connect to {endpoint}: {error.strerror or error}") from None
    try:
        dealer = Dealer(f"ipc://{endpoint}", "command")
    except EndpointError as error:
        raise AskError(str(error)) from None
    try:
        dealer.send(encode(message))
        deadline = time.monotonic() + answer_s
        while time.monotonic() < deadline:
            lost = dealer.disconnected()
            if (payload := dealer.receive()) is not None:
                return decode(payload)
            if lost:
                raise AskError("V-Gate ended")
            time.sleep(_POLL_S)
    except WireError:
        raise AskError("V-Gate is another version than this command") from None
    finally:
        dealer.close(linger_ms=0)
    raise AskError("V-Gate does not answer; its log may say why")


def _others(run_dir: str) -> str:
    """Return the end of a sentence: what to give as --run-dir.

    It names the run directories of other instances, if there seem to be any: those of other
    accounts and ports, and that of the systemd service.
    """
    near = (str(path) for path in Path(run_dir).absolute().parent.glob("vgate-*"))
    found = [one for one in (*sorted(near), _OF_THE_SERVICE) if os.path.lexists(f"{one}/{_SOCKET}")]
    such_as = f", such as {' or '.join(found)}" if found else ""
    return f"name its directory with --run-dir{such_as}"
