"""``vgate reload``: asks a running instance to read its configuration again."""

import argparse
import socket
import sys
import time
from pathlib import Path

from vgate.launcher.keys_cli import EXIT_FAILED, EXIT_OK
from vgate.wire.codec import WireError, decode_reloaded, encode
from vgate.wire.control import Reload, Reloaded
from vgate.wire.sockets import Dealer, EndpointError

_POLL_S = 0.05
# A hand-over has limits of its own, after which there is an answer.
_ANSWER_S = 600.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``vgate reload`` to `parser`."""
    parser.description = (
        "Have a running instance read its configuration again, with the environment and the flags "
        "that it was started with. New frontends take the places of the earlier ones, which finish "
        "their requests; no connection is refused. A configuration that can't be used changes "
        "nothing. The engine stays as it is: its settings and server.host, port and workers need a "
        "restart, and the command says which. SIGHUP does the same."
    )
    parser.add_argument(
        "--run-dir",
        metavar="DIR",
        help="the instance's run directory (default: as server.run_dir and server.port have it)",
    )


def run(run_dir: str) -> int:
    """Ask the instance in a run directory; return the exit status."""
    endpoint = Path(run_dir).absolute() / "control.sock"
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            probe.connect(str(endpoint))
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        return _report(f"no V-Gate runs in {run_dir}; name its directory with --run-dir", ok=False)
    except OSError as error:
        return _report(f"cannot connect to {endpoint}: {error.strerror or error}", ok=False)
    try:
        dealer = Dealer(f"ipc://{endpoint}", "reload")
    except EndpointError as error:
        return _report(str(error), ok=False)
    try:
        outcome = _outcome(dealer)
    finally:
        dealer.close(linger_ms=0)
    return _report(outcome.text, ok=outcome.done)


def _outcome(dealer: Dealer) -> Reloaded:
    dealer.send(encode(Reload()))
    deadline = time.monotonic() + _ANSWER_S
    while time.monotonic() < deadline:
        lost = dealer.disconnected()
        if (payload := dealer.receive()) is not None:
            try:
                return decode_reloaded(payload)
            except WireError:
                return Reloaded(False, "V-Gate is another version than this command")
        if lost:
            return Reloaded(False, "V-Gate ended")
        time.sleep(_POLL_S)
    return Reloaded(False, "V-Gate does not answer; its log may say why")


def _report(text: str, *, ok: bool) -> int:
    sys.stderr.write(f"vgate: {text}\n")
    return EXIT_OK if ok else EXIT_FAILED
