"""``vgate models``: the models that can be had, and those of a running server."""

import argparse

from vgate.commands.command import Command
from vgate.commands.models import cached, catalogue, pull, residency
from vgate.config import Config

# Name: what it does, and the module with `configure` and `run`.
_ACTIONS: dict[str, tuple[str, Command]] = {
    "catalogue": ("show the models that have short names, and what fits", catalogue),
    "cached": ("show the downloaded models and what they take of the disk", cached),
    "list": ("show the models of a running server, and which are loaded", residency.LIST),
    "load": ("load a model now, as if a request named it", residency.LOAD),
    "unload": ("unload a model once its requests are done", residency.UNLOAD),
    "pull": ("download a model, so that it is there when it is served", pull),
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions with their arguments."""
    parser.description = "Show, download, load and unload models."
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    for name, (what, module) in _ACTIONS.items():
        module.configure(actions.add_parser(name, help=what))


def run(options: argparse.Namespace, config: Config) -> None:
    """Run the action."""
    _ACTIONS[options.action][1].run(options, config)
