"""``vgate models pull``: downloads a model, so that it is there when it is served."""

import argparse
import shutil
import sys
import time
from collections import deque

from vgate.commands.command import EXIT_USAGE, CommandError
from vgate.commands.models.sizes import add_vram, card_size
from vgate.commands.text import cut, download_text, is_terminal, plain, say
from vgate.config import Config
from vgate.config.model import Model
from vgate.config.models.catalogue import FORMS, Form, entry, similar
from vgate.config.models.checkpoint import check_files
from vgate.config.models.names import check_name, is_directory
from vgate.config.models.settings import CheckpointError
from vgate.fit.choice import Choice, how_it_fits
from vgate.fit.gpu import Card
from vgate.fit.short_names import card_here, described, look_up, room, where, why, why_not
from vgate.hub import HubError, fetch

# The rate is that of the last seconds.
_RATE_OVER_S = 10.0
_LINE_EVERY_S = 10.0
_CLEAR = "\r\x1b[K"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Download a model from the Hugging Face Hub into its cache, where `vgate` finds it. "
        "An interrupted download goes on where it ended."
    )
    what = "short name (qwen3:8b), or name on the Hub (OWNER/NAME)"
    parser.add_argument("model_name", metavar="MODEL", help=what)
    parser.add_argument("--revision", metavar="NAME", help="branch, tag or commit on the Hub")
    add_vram(parser)
    parser.add_argument(
        "--quantization",
        choices=FORMS,
        help="the version of a short name: with 16, 8 or 4 bits (the one that fits)",
    )


def run(options: argparse.Namespace, config: Config) -> None:
    """Download the model."""
    name: str = options.model_name
    if name and is_directory(name):
        raise CommandError(f"{name} is a directory: there is nothing to download", EXIT_USAGE)
    card = card_here(config.model.gpu_memory_utilization, card_size(options))
    if options.quantization:
        name = _asked_for(name, options.quantization, card)
    elif found := look_up(name, card):
        name = _chosen(name, found[1], card)
    pull(name, options.revision)


def _asked_for(name: str, form: Form, card: Card) -> str:
    """Return the repository of one version of a short name, and say whether it fits."""
    if (found := entry(name)) is None:
        raise CommandError(
            f"{name} is no short name: take the name of its {form} version on the Hub, without "
            "--quantization",
            EXIT_USAGE,
        )
    variant = next((one for one in found.variants if one.form == form), None)
    if variant is None:
        forms = ", ".join(one.form for one in found.variants)
        raise CommandError(f"the catalogue has {name} as {forms}", EXIT_USAGE)
    _tell(f"{name} is {described(variant)}: {room(how_it_fits(found, variant, card))} on", card)
    return variant.repository


def _chosen(name: str, choice: Choice, card: Card) -> str:
    """Return the repository of a short name, and say why it is this one."""
    if choice.best is None:
        what = "; --quantization int4 downloads it all the same" if choice.all else ""
        raise CommandError(f"{why_not(name, choice, card)}{what}")
    first, *others = why(choice)
    _tell(f"{name} is {first} on", card)
    for line in others:
        say(plain(f"  not {line}"))
    if choice.best.variant.gated:
        say("  Its licence has to be accepted on the Hub, and HF_TOKEN set.")
    return choice.best.variant.repository


def _tell(text: str, card: Card) -> None:
    say(plain(f"{text} {where(card)}"))


def pull(name: str, revision: str | None) -> None:
    """Download a model and say where it is; raise CommandError if it can't be had or served."""
    try:
        check_name(name)
    except CheckpointError as error:
        text = str(error).removeprefix("model.model_id: ")
        raise CommandError(text if "did you mean" in text else text + meant(name)) from None
    progress = _Progress(name)
    try:
        directory = fetch(name, revision, progress.report, progress.say)
    except HubError as error:
        hint = meant(name) if error.not_there else ""
        raise CommandError(f"{error}{hint}") from None
    except KeyboardInterrupt:
        progress.say("stopped; the same command goes on from here")
        raise
    finally:
        progress.end()
    try:
        check_files(Model(model_id=name), directory)
    except CheckpointError as error:
        raise CommandError(f"{name} is downloaded, but it can't be served: {error}") from None
    sys.stdout.write(f"{plain(name)} is in {directory}\n")


def meant(name: str) -> str:
    """Return the short names that may be meant by a name, as words to append."""
    close = similar(name)
    return f". Short names: {', '.join(close)}" if close else ""


class _Progress:
    """Shows how far a download is: one line on a terminal, or one now and then."""

    def __init__(self, name: str) -> None:
        self._name = plain(name)
        self._seen: deque[tuple[float, int]] = deque()
        self._next_line = time.monotonic() + _LINE_EVERY_S
        self._shown = False

    def report(self, done: int, total: int) -> None:
        """Show how many bytes of how many are there."""
        now = time.monotonic()
        self._seen.append((now, done))
        while now - self._seen[0][0] > _RATE_OVER_S and len(self._seen) > 2:
            self._seen.popleft()
        text = f"{self._name}: {download_text(done, total, self._bytes_per_s())}"
        if is_terminal():
            columns = shutil.get_terminal_size().columns
            self._write(f"{_CLEAR}{cut(text, columns - 1)}")
            self._shown = True
        elif now >= self._next_line or done == total:
            self._next_line = now + _LINE_EVERY_S
            self._write(f"{text}\n")

    def say(self, text: str) -> None:
        """Show what else happens."""
        self.end()
        self._write(f"{self._name}: {plain(text)}\n")

    def end(self) -> None:
        """Leave the line as it is."""
        if self._shown:
            self._write("\n")
            self._shown = False

    def _bytes_per_s(self) -> float | None:
        (began, before), (now, done) = self._seen[0], self._seen[-1]
        return (done - before) / (now - began) if done > before and now > began else None

    def _write(self, text: str) -> None:
        sys.stdout.write(text)
        sys.stdout.flush()
