"""``vgate models list``, ``load`` and ``unload``: which models a running server has in memory."""

import argparse
import sys
import time
import urllib.parse
from collections.abc import Callable
from typing import Any, NamedTuple

from vgate.commands.command import CommandError
from vgate.commands.server import Server, configure_server
from vgate.commands.text import duration, plain, say, table
from vgate.config import Config

_PATH = "/admin/models"
_HEAD = ("MODEL", "LOAD", "STATUS", "FOR", "RUNNING", "WAITING", "LOADS", "DETAIL")
_LEFT = 3  # columns of text
_POLL_S = 0.5


class Action(NamedTuple):
    """One of the commands; see `vgate.commands.command.Command`."""

    configure: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace, Config], None]


def _configure_load(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="its name, as the list has it")
    parser.add_argument("--no-wait", action="store_true", help="don't wait until it is loaded")
    configure_server(parser)


def _configure_unload(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="MODEL", help="its name, as the list has it")
    parser.add_argument("--force", action="store_true", help="also a pinned one")
    parser.add_argument("--no-wait", action="store_true", help="don't wait until it is unloaded")
    configure_server(parser)


def _list(options: argparse.Namespace, config: Config) -> None:
    server = Server(options, config)
    rows = [_HEAD, *(_row(model) for model in server.objects(_PATH))]
    columns = table([row[:-1] for row in rows], left=_LEFT)
    # The last one is text of any length.
    lines = (f"{line}  {row[-1]}".rstrip() for line, row in zip(columns, rows, strict=True))
    sys.stdout.write("".join(f"{line}\n" for line in lines))


def _load(options: argparse.Namespace, config: Config) -> None:
    server, name = Server(options, config), options.model
    _order(server, name, "load", {})
    if options.no_wait:
        say(f"{name} is to be loaded")
        return
    told, loads = "", False
    while (model := server.named(_PATH, "model", name))["status"] != "loaded":
        status, detail = model["status"], plain(model["detail"])
        # The server may not have heard of the order yet.
        loads |= status in ("queued", "loading")
        if status == "failed" or (loads and status == "unloaded"):
            raise CommandError(f"{name} was not loaded: {detail}")
        ahead = f", {model['ahead']} models before it" if model["ahead"] else ""
        if (text := f"{name} is {status}{ahead}: {detail}") != told and loads:
            say(text)
            told = text
        time.sleep(_POLL_S)
    say(f"{name} is loaded")


def _unload(options: argparse.Namespace, config: Config) -> None:
    server, name = Server(options, config), options.model
    before = server.named(_PATH, "model", name)["unloads"]
    _order(server, name, "unload", {"force": options.force})
    told = -1
    while not options.no_wait:
        model = server.named(_PATH, "model", name)
        if model["unloads"] > before and model["status"] != "unloading":
            say(f"{name} is unloaded")
            return
        if model["running"] != told:
            told = model["running"]
            say(f"{name}: {told} in flight")
        time.sleep(_POLL_S)
    say(f"{name} is to be unloaded")


def _order(server: Server, name: str, action: str, body: dict[str, Any]) -> None:
    server.post(f"{_PATH}/{urllib.parse.quote(name)}/{action}", body)


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    return (
        plain(model["model"]),
        plain(model["load"]),
        plain(model["status"]),
        duration(model["for_s"]),
        str(model["running"]),
        str(model["waiting"]),
        str(model["loads"]),
        plain(model["detail"]),
    )


LIST = Action(configure_server, _list)
LOAD = Action(_configure_load, _load)
UNLOAD = Action(_configure_unload, _unload)
