"""``vgate chat``: a conversation in the terminal, or one answer in a pipe."""

import argparse
import contextlib
import difflib
import sys
from pathlib import Path

from vgate.commands.command import EXIT_USAGE, CommandError
from vgate.commands.conversation import Conversation
from vgate.commands.server import Server, configure_server
from vgate.commands.text import BOLD, DIM, RED, plain, styled
from vgate.config import Config

_BLOCK = '"""'
_HELP = """\
/system TEXT   set the system prompt; without a text, show it
/model NAME    ask another model from now on; without a name, list them
/retry         ask for another answer to the last message
/clear         forget the conversation
/save FILE     write it as Markdown, or as JSON if the name ends so
/bye           end, as Ctrl-D does
Several lines: end each but the last with \\, or put \"\"\" before and after them.
Ctrl-C stops an answer. A message that begins with / is written with //."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Talk to a model. On a terminal this is a conversation; /help lists its commands. With "
        "TEXT or piped input it prints one answer and nothing else."
    )
    parser.epilog = "Examples: vgate chat; vgate chat 'why?'; git diff | vgate chat 'review this'"
    add = parser.add_argument
    add("text", nargs="*", metavar="TEXT", help="message to answer")
    add("--model", dest="name", metavar="NAME", help="served model (default: the first)")
    add("--system", metavar="TEXT", default="", help="system prompt")
    add("--temperature", type=float, metavar="T", help="default: the model's own")
    add("--max-tokens", type=int, metavar="N", help="maximum tokens per answer")
    configure_server(parser)


def run(options: argparse.Namespace, config: Config) -> None:
    """Talk."""
    server = Server(options, config)
    names = server.models()
    if options.name and options.name not in names:
        raise CommandError(f"no model `{options.name}`: there is {', '.join(names)}", EXIT_USAGE)
    given = {"temperature": options.temperature, "max_tokens": options.max_tokens}
    fields = {name: value for name, value in given.items() if value is not None}
    conversation = Conversation(server, options.name or names[0], fields)
    conversation.system = options.system
    text = " ".join(options.text)
    if not sys.stdin.isatty():
        try:
            piped = sys.stdin.read().rstrip("\n")
        except UnicodeDecodeError:
            raise CommandError("standard input is not UTF-8 text", EXIT_USAGE) from None
        text = f"{text}\n\n{piped}" if text and piped else text or piped
        if not text.strip():
            raise CommandError("there is no message: give a text, or one in the pipe", EXIT_USAGE)
    if text:
        conversation.ask(text)
    else:
        _Terminal(server, conversation).run()


class _Terminal:
    """Reads messages and commands from the terminal until the end."""

    def __init__(self, server: Server, conversation: Conversation) -> None:
        self._server = server
        self._conversation = conversation

    def run(self) -> None:
        """Talk until Ctrl-D or /bye."""
        with contextlib.suppress(ImportError):
            import readline  # noqa: F401 - gives `input` its editing and history
        model = plain(self._conversation.model)
        print(styled(f"{model} on {self._server.url}. /help shows what else there is.", DIM))
        while True:
            try:
                text = _read()
            except KeyboardInterrupt:
                print(styled("\n(Ctrl-D or /bye ends)", DIM))
                continue
            except EOFError:
                print()
                return
            if text in ("/bye", "/exit", "/quit"):
                return
            try:
                self._take(text)
            except CommandError as error:
                print(styled(plain(error), RED))
            except KeyboardInterrupt:
                continue  # it has stopped the answer

    def _take(self, text: str) -> None:
        """Run a command, or send a message."""
        if not text.strip():
            return
        if text.startswith("//") or not text.startswith("/"):
            self._conversation.ask(text.removeprefix("/"))
            return
        word, _, rest = text[1:].partition(" ")
        command = getattr(self, f"_do_{word}", None)
        if command is None:
            known = [name.removeprefix("_do_") for name in dir(self) if name.startswith("_do_")]
            close = difflib.get_close_matches(word, known, n=1)
            hint = f"did you mean /{close[0]}?" if close else "/help lists them"
            raise CommandError(f"there is no /{word}; {hint}")
        command(rest.strip())

    def _do_help(self, _rest: str) -> None:
        print(_HELP)

    def _do_system(self, text: str) -> None:
        if text:
            self._conversation.system = text
        print(styled(f"system prompt: {self._conversation.system or 'none'}", DIM))

    def _do_model(self, name: str) -> None:
        names = self._server.models()
        if name in names:
            self._conversation.model = name
        elif name:
            raise CommandError(f"no model `{name}`: there is {', '.join(names)}")
        for each in names:
            chosen = each == self._conversation.model
            print(styled(f"* {plain(each)}", BOLD) if chosen else f"  {plain(each)}")

    def _do_retry(self, _rest: str) -> None:
        self._conversation.retry()

    def _do_clear(self, _rest: str) -> None:
        self._conversation.clear()
        print(styled("(the conversation is forgotten)", DIM))

    def _do_save(self, name: str) -> None:
        if not name:
            raise CommandError("/save needs the name of a file")
        self._conversation.save(Path(name))
        print(styled(f"(saved to {name})", DIM))


def _read() -> str:
    r"""Return a message: a line, lines that end with \, or a block between three quotes."""
    line = input(">>> ")
    if line.startswith(_BLOCK):
        lines = [line.removeprefix(_BLOCK)]
        while not lines[-1].endswith(_BLOCK):
            lines.append(input("... "))
        lines[-1] = lines[-1].removesuffix(_BLOCK)
        return "\n".join(lines).strip("\n")
    lines = [line]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1].removesuffix("\\")
        lines.append(input("... "))
    return "\n".join(lines)
