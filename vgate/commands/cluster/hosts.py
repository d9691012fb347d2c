"""``vgate engines invite``, ``hosts`` and ``remove``: engines on other hosts join and leave."""

import argparse
import shlex
import socket
import sys
import time
import urllib.parse
from collections.abc import Callable
from typing import Any

from vgate.commands.server import Server
from vgate.commands.text import plain, say, table

_PATH = "/admin/hosts"
_HEAD = ("HOST", "MODEL", "ADDRESSES", "JOINED")
_MINUTE_S = 60


def configure(actions: "argparse._SubParsersAction[Any]") -> None:
    """Add the actions to those of ``vgate engines``."""
    invite = actions.add_parser(
        "invite", help="print a command with which another machine runs a replica for this server"
    )
    invite.add_argument("--model", metavar="NAME", help="which model (default: the main one)")
    invite.add_argument(
        "--minutes", type=float, default=15.0, metavar="N", help="how long the command works (15)"
    )
    actions.add_parser("hosts", help="list the machines that have joined")
    remove = actions.add_parser("remove", help="use a machine's engines no more")
    remove.add_argument("name", metavar="NAME", help="its name, as the list has it")


def _invite(server: Server, options: argparse.Namespace) -> None:
    for_s = options.minutes * _MINUTE_S
    found = server.post(_PATH, {"model": options.model, "for_s": for_s})
    url = urllib.parse.urlsplit(server.url)
    host = socket.gethostname() if server.is_local else server.host
    command = ["vgate", "join", f"{url.scheme}://{host}:{url.port or found['port']}"]
    command += ["--token", str(found["token"])]
    if url.scheme == "https" and found["certificate_sha256"]:
        command += ["--fingerprint", str(found["certificate_sha256"])]
    until = time.strftime("%H:%M:%S", time.localtime(found["expires_at"]))
    say(f"Run this once on the other machine, until {until}; it serves {plain(found['model'])}:")
    sys.stdout.write(f"\n    {shlex.join(command)}\n\n")
    if found["is_local"]:
        say("The server listens on this machine only: set server.host to 0.0.0.0 first.")
    if url.scheme == "http":
        say("The server speaks HTTP, so `vgate join` wants --plain-http; better set server.tls.")


def _list(server: Server, _options: argparse.Namespace) -> None:
    rows = [
        (
            plain(host["name"]),
            plain(host["model"]),
            plain(" ".join(host["addresses"])),
            time.strftime("%Y-%m-%d %H:%M", time.localtime(host["joined"])),
        )
        for host in server.objects(_PATH)
    ]
    sys.stdout.write("".join(f"{line}\n" for line in table([_HEAD, *rows], left=len(_HEAD))))


def _remove(server: Server, options: argparse.Namespace) -> None:
    server.delete(f"{_PATH}/{urllib.parse.quote(options.name, safe='')}")
    say(f"the engines of {plain(options.name)} finish their requests and get no more")


# What `configure` adds, by its name.
ACTIONS: dict[str, Callable[[Server, argparse.Namespace], None]] = {
    "invite": _invite,
    "hosts": _list,
    "remove": _remove,
}
