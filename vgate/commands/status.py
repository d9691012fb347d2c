"""``vgate status``: the state of a running server on one screen."""

import argparse
import contextlib
import json
import sys
import time

from vgate.commands.command import EXIT_FAILED, EXIT_NO_SERVER, EXIT_OK, CommandError
from vgate.commands.overview import Sample, overview
from vgate.commands.server import Server, configure_server
from vgate.commands.text import Screen
from vgate.config import Config

_RATE_S = 0.5


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Show the engines, their load, latencies, and the limits of keys. Where keys are required, "
        "one with `admin: true` sees all of this, another one its own limits."
    )
    parser.epilog = "Exit status: 0 ready, 1 not ready, 3 no server answers."
    parser.add_argument(
        "--watch",
        nargs="?",
        type=interval,
        const=2.0,
        metavar="S",
        help="refresh every S seconds (2) until Ctrl-C",
    )
    parser.add_argument("--json", action="store_true", help="print /ready and /stats as JSON")
    configure_server(parser)


def run(options: argparse.Namespace, config: Config) -> int:
    """Show it; return the exit status."""
    server = Server(options, config)
    if options.json:
        now = Sample.of(server)
        document = {"url": server.url, "ready": now.ready, "stats": now.stats}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return _status(now)
    if options.watch:
        return _watch(server, options.watch)
    earlier = Sample.of(server)
    time.sleep(_RATE_S if earlier.stats else 0)
    now = Sample.of(server)
    sys.stdout.write("\n".join(overview(server, now, earlier)) + "\n")
    return _status(now)


def _watch(server: Server, every_s: float) -> int:
    """Show it until Ctrl-C, also over restarts of the server; return the last status."""
    now: Sample | None = Sample.of(server)
    earlier = None
    lost = ""
    with Screen() as screen, contextlib.suppress(KeyboardInterrupt):
        while True:
            screen.show(overview(server, now, earlier) if now else [lost])
            time.sleep(every_s)
            earlier = now
            try:
                now = Sample.of(server)
            except CommandError as error:
                if error.status != EXIT_NO_SERVER:
                    raise
                now, lost = None, str(error)
    return _status(now) if now else EXIT_NO_SERVER


def _status(now: Sample) -> int:
    return EXIT_OK if now.ready.get("ready") else EXIT_FAILED


def interval(text: str) -> float:
    """Return the seconds; argparse reports a `ValueError`."""
    value = float(text)
    if not 0.1 <= value <= 3600:
        raise argparse.ArgumentTypeError("must be 0.1 to 3600 seconds")
    return value
