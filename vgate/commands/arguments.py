"""The command line: the table of the commands, and what is wrong with the arguments.

`bin/vgate` reads the arguments with this before anything is installed, so it needs only Python 3.8
and the standard library. The modules of the table need more, and are imported when their command
is wanted.
"""

from __future__ import annotations

import argparse
import copy
import difflib
import importlib
import os
import re

from vgate import __version__

TYPE_CHECKING = False  # as in typing, whose import would slow down every start
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

# Name: what it does, and the module with `configure` and `run`; without one, a model is served.
COMMANDS = {
    "serve": ("serve; the default", None),
    "engine": ("serve engines to frontends on other hosts", None),
    "frontend": ("serve HTTP with engines on other hosts", None),
    "check": ("check the configuration and print it", None),
    "status": ("show what a running server does, on one screen", "vgate.commands.status"),
    "top": ("show the running requests, live; stop one", "vgate.commands.top"),
    "engines": (
        "show the engines; drain, resume or restart one",
        "vgate.commands.cluster.engines",
    ),
    "logs": ("show the log, or the lines of one request", "vgate.commands.logs"),
    "chat": ("talk to a model, in the terminal or in a pipe", "vgate.commands.chat"),
    "fit": ("say what a model takes of a GPU, and what fits", "vgate.commands.models.fit"),
    "models": ("show, download, load and unload models", "vgate.commands.models.group"),
    "bench": ("measure a running server under load", "vgate.commands.bench"),
    "keys": ("add, list, change, revoke and rotate API keys", "vgate.commands.keys"),
    "usage": ("show requests and tokens by key, model or day", "vgate.commands.usage"),
    "join": ("run a replica for another machine's server", "vgate.launcher.hosts.join"),
    "reload": (
        "apply a changed configuration to a running instance",
        "vgate.launcher.reload.cli",
    ),
    "service": (
        "run as a systemd service: install, remove, status",
        "vgate.commands.machine.service",
    ),
    "update": ("update the clone and show what changed", "vgate.commands.machine.update"),
    "uninstall": ("remove what V-Gate created on this machine", "vgate.commands.machine.uninstall"),
    "completion": ("print shell completion for bash, fish or zsh", "vgate.commands.completion"),
}
# What other programs call their commands.
_OTHER_WORDS = {
    "start": "serve",
    "run": "serve",
    "up": "serve",
    "launch": "serve",
    "ps": "top",
    "list": "status",
    "ls": "status",
    "test": "check",
    "validate": "check",
    "restart": "reload",
    "upgrade": "update",
    "help": "--help",
    "version": "--version",
}
_OTHER_HINTS = {
    "stop": "Ctrl-C or SIGTERM ends an instance, `systemctl stop vgate` the service",
    "pull": "to download a model: vgate models pull NAME",
}
_SERVES = {
    "serve": "Serve a model, or several, over HTTP, until Ctrl-C or SIGTERM. Without --model, "
    "model.model_id counts; if it is not set either, a terminal is asked. `vgate serve MODEL` and "
    "the flags of `vllm serve` work too: docs/configure.md.",
    "engine": "Run the engines of the configuration without HTTP, for frontends on other hosts. "
    "Both need keys (`vgate keys engine`): docs/hosts.md.",
    "frontend": "Serve HTTP with engines on other hosts: no model and no GPU here. Both need keys "
    "(`vgate keys engine`): docs/hosts.md.",
    "check": "Check the configuration, models, keys, certificates, port and run directory, and "
    "start nothing. If all is well, print the configuration in force, with secrets masked.",
}
_CHECK_STATUS = (
    "Exit status: 0 valid, 1 only the port or the run directory is in the way, 2 the configuration "
    "or a file has to be changed."
)
# Name, variable, metavar, help.
SETTINGS = (
    ("config", "VGATE_CONFIG_PATH", "FILE", "configuration file (default: ./config.yaml)"),
    (
        "model",
        "VGATE_MODEL__MODEL_ID",
        "MODEL",
        "short name, directory, Hub name (model.model_id)",
    ),
    ("host", "VGATE_SERVER__HOST", "HOST", "address of the server (server.host)"),
    ("port", "VGATE_SERVER__PORT", "PORT", "its port (server.port)"),
)
# The same for the commands that serve a part only.
ROLE_SETTINGS = {
    "engine": (
        (
            "listen",
            "VGATE_ENGINE_LINK__LISTEN",
            "tcp://HOST:PORT",
            "where frontends connect (engine_link.listen)",
        ),
    ),
    "frontend": (
        (
            "engines",
            "VGATE_ENGINES",
            "tcp://HOST:PORT,...",
            "the engines' addresses (engines)",
        ),
    ),
}
_PROBE = (
    "ask the engines that run here instead of starting some: ready (a request would be served) or "
    "live (nothing hangs); exit status 0 for yes"
)
WITH_VALUE = [f"--{flag}" for flag, *_ in SETTINGS]
WITHOUT_VALUE = ("--dry-run", "--help", "-h", "--version")


def read(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the options; end with status 2 and a sentence where an argument is wrong."""
    word = command_of(arguments)
    module = COMMANDS[word][1] if word else None
    parsers = build([word] if word and module else [])
    options, rest = parsers[""].parse_known_args(arguments)
    if rest:
        _refuse(rest[0], parsers[word or ""])
    return options


def read_early(arguments: Sequence[str]) -> str | None:
    """Return the command before anything is installed, None for the default.

    Ends with status 2 where an argument is wrong, as far as that can be known without the modules.
    """
    word = command_of(arguments)
    if word is None or COMMANDS[word][1] is None:
        read(arguments)
    return word


def command_of(arguments: Sequence[str]) -> str | None:
    """Return the command among the arguments; end with status 2 if there is no such command."""
    parser = build([])[""]
    previous = ""
    for argument in arguments:
        if argument.startswith("-"):
            if argument.partition("=")[0] not in {*WITH_VALUE, *WITHOUT_VALUE}:
                _refuse(argument, parser)
        elif previous not in WITH_VALUE:
            if argument not in COMMANDS:
                _refuse_command(argument)
            return argument
        previous = argument
    return None


def build(configured: Sequence[str]) -> dict[str, Parser]:
    """Return the parser as "", and those of the commands, of which these have all arguments."""
    parser = Parser(
        prog="vgate",
        description="Serve a model as an OpenAI-compatible endpoint, with vLLM on this machine.",
        epilog="Settings come from flags, the environment (VGATE_SECTION__KEY), config.yaml and "
        "defaults; the first that has one wins. `vgate check` prints the result.",
        parents=[_settings(serves=True)],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"vgate {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    parsers = {"": parser}
    for name, (what, module) in COMMANDS.items():
        parents = [_settings(serves=module is None)]
        parsers[name] = commands.add_parser(name, help=what, parents=parents, allow_abbrev=False)
        if module is None:
            parsers[name].description = _SERVES.get(name)
        for flag, _, metavar, help_ in ROLE_SETTINGS.get(name, ()):
            parsers[name].add_argument(f"--{flag}", metavar=metavar, help=help_)
        if name == "engine":
            parsers[name].add_argument("--probe", choices=["ready", "live"], help=_PROBE)
        if name == "check":
            parsers[name].epilog = _CHECK_STATUS
        if module and name in configured:
            importlib.import_module(module).configure(parsers[name])
            _share_flags(parsers[name])
    return parsers


def _settings(*, serves: bool) -> Parser:
    """Return the flags that may come before or after a command; absent ones have no default."""
    parser = Parser(add_help=False, argument_default=argparse.SUPPRESS)
    if serves:
        parser.add_argument(
            "--dry-run",
            action="store_true",
            help="serve a simulated engine that repeats the last message: no GPU, no model "
            "(also VGATE_DRY_RUN=1)",
        )
    for flag, _, metavar, what in SETTINGS:
        if serves or flag != "model":
            parser.add_argument(f"--{flag}", metavar=metavar, help=what)
    return parser


def _share_flags(command: argparse.ArgumentParser) -> None:
    """Let a command's flags stand after its actions too: `vgate keys add alice --config FILE`."""
    nested = [option.choices for option in command._actions if isinstance(option.choices, dict)]  # noqa: SLF001
    for action in (action for choices in nested for action in choices.values()):
        for option in command._actions:  # noqa: SLF001
            own = action._option_string_actions  # noqa: SLF001
            if option.option_strings and not own.keys() & {*option.option_strings}:
                shared = copy.copy(option)
                # A default would replace what was given before the action.
                shared.default = argparse.SUPPRESS
                action._add_action(shared)  # noqa: SLF001


class Parser(argparse.ArgumentParser):
    """Reports a wrong argument in one line, as everything else is reported."""

    def error(self, message: str) -> NoReturn:
        """End with status 2."""
        if message.endswith("required: ACTION"):
            names = ", ".join(name for action in self._actions for name in action.choices or ())
            message = f"an action is missing; choose one of: {names}"
        # argparse shows the name of the function that reads the value.
        message = re.sub(r"\binvalid _(\w+) value", r"invalid \1 value", message)
        self.exit(2, f"vgate: {message} ({self.prog} --help)\n")


def _refuse_command(word: str) -> NoReturn:
    close = difflib.get_close_matches(word, COMMANDS, n=1)
    meant = _OTHER_WORDS.get(word) or (close[0] if close else None)
    if word in _OTHER_HINTS:
        hint = _OTHER_HINTS[word]
    elif "/" in word or os.path.exists(word):
        hint = f"to serve a model: vgate --model {word}"
    elif meant:
        hint = f"did you mean `vgate {meant}`?"
    else:
        hint = f"the commands are {', '.join(COMMANDS)}"
    Parser(prog="vgate").error(f"there is no command `{word}`; {hint}")


def _refuse(argument: str, parser: Parser) -> NoReturn:
    """End because of an argument that a parser has left over."""
    name = argument.partition("=")[0]
    if not name.startswith("-"):
        parser.error(f"`{argument}` is one argument too many")
    flags = re.findall(r"--[a-z][a-z-]+", parser.format_help())
    close = difflib.get_close_matches(name, flags, n=1)
    parser.error(f"there is no flag {name}" + (f"; did you mean {close[0]}?" if close else ""))
