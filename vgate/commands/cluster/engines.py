"""``vgate engines``: the engines of a running server; drains, resumes and restarts one."""

import argparse
import sys
import time
from typing import Any

from vgate.commands.cluster import hosts
from vgate.commands.command import CommandError
from vgate.commands.server import Server, configure_server
from vgate.commands.text import duration, plain, say, table
from vgate.config import Config

_PATH = "/admin/engines"
_HEAD = ("ENGINE", "MODEL", "REPLICA", "STATE", "FOR", "RUNNING", "WAITING", "KV CACHE", "RESTARTS")
_LEFT = 4  # columns of text
_POLL_S = 0.5


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Show the engines of a running server, or drain one: it finishes its requests, gets no new "
        "ones and stays loaded until it is resumed. Where keys are required, it needs one with "
        "`admin: true`."
    )
    configure_server(parser)
    actions = parser.add_subparsers(dest="action", metavar="ACTION")
    actions.add_parser("list", help="show the engines; the default")
    drain = actions.add_parser("drain", help="move new requests to the other engines of the model")
    add = drain.add_argument
    add("engine", type=int, metavar="N", help="its number, as the list has it")
    add("--restart", action="store_true", help="start it again once its requests are done")
    add("--force", action="store_true", help="also if no other engine serves the model")
    add("--no-wait", action="store_true", help="don't wait until its requests are done")
    resume = actions.add_parser("resume", help="give a drained or failed engine requests again")
    resume.add_argument("engine", type=int, metavar="N")
    hosts.configure(actions)


def run(options: argparse.Namespace, config: Config) -> None:
    """Run the action."""
    server = Server(options, config)
    if options.action in hosts.ACTIONS:
        hosts.ACTIONS[options.action](server, options)
    elif options.action == "drain":
        _drain(server, options)
    elif options.action == "resume":
        server.post(f"{_PATH}/{options.engine}/resume", {})
        say(f"engine {options.engine} is resumed")
    else:
        rows = [_HEAD, *(_row(engine) for engine in server.objects(_PATH))]
        sys.stdout.write("".join(f"{line}\n" for line in table(rows, left=_LEFT)))


def _drain(server: Server, options: argparse.Namespace) -> None:
    number: int = options.engine
    before = server.named(_PATH, "engine", number)
    body = {"restart": options.restart, "force": options.force}
    server.post(f"{_PATH}/{number}/drain", body)
    if options.no_wait:
        say(f"engine {number} drains")
        return
    told = -1
    while True:
        # Frontends hear of it within half a second, so one that is idle now may get a request.
        time.sleep(_POLL_S)
        engine = server.named(_PATH, "engine", number)
        left = engine["running"] + engine["waiting"]
        if options.restart and engine["restarts"] > before["restarts"]:
            if engine["state"] == "ready":
                say(f"engine {number} was restarted and serves")
                return
            left = 0
        elif not options.restart and engine["state"] != "draining":
            raise CommandError(f"engine {number} was resumed meanwhile: it is {engine['state']}")
        elif not options.restart and not left and not engine["serves"]:
            say(f"engine {number} is drained; `vgate engines resume {number}` ends that")
            return
        if left != told:
            say(f"engine {number}: {left} in flight; it is {engine['state']}")
            told = left


def _row(engine: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(engine["engine"]),
        plain(engine["model"]),
        str(engine["replica"]),
        plain(engine["state"]),
        duration(engine["for_s"]),
        str(engine["running"]),
        str(engine["waiting"]),
        f"{engine['kv_cache_usage']:.0%}",
        str(engine["restarts"]),
    )
