"""Which model is served where none is configured: the one that was chosen before, or is now.

On a terminal somebody is asked once, and a model that fits is proposed. A service never is.
"""

import difflib
import os
import re
import sys
from pathlib import Path

import msgspec

from vgate.commands.command import EXIT_FAILED
from vgate.config import Config
from vgate.config.model import Model
from vgate.config.models.catalogue import CHOSEN, catalogue
from vgate.config.models.checkpoint import find_model
from vgate.config.models.settings import CheckpointError
from vgate.fit.choice import proposed
from vgate.fit.short_names import PROCESSOR, card_here, described, problem, room, where

_VARIABLE = "VGATE_MODEL__MODEL_ID"
_INTERRUPTED = 130
_YES, _NO = {"y", "yes"}, {"n", "no", "q", "quit", "exit"}
_MOST_CHARS = 4096


def is_open(config: Config) -> bool:
    """Whether the configuration says nothing of the model, but perhaps its type of numbers."""
    said = msgspec.structs.replace(config.model, dtype="auto") != Model()
    return not (said or config.models or os.environ.get(_VARIABLE))


def choose(config: Config, *, ask: bool) -> tuple[Config, str]:
    """Return the configuration with a model for one that is open, and in words which it is.

    With `ask` somebody is asked, if there is a terminal. The choice counts for this process and
    those it starts, and is remembered in the state directory.
    """
    path = config.server.state_path / CHOSEN
    name = _remembered(path)
    if name:
        note = f"serving {name}, which was chosen before ({path}); --model names another"
    else:
        name = _asked() if ask and sys.stdin.isatty() and sys.stderr.isatty() else ""
        note = _remember(path, name) if name else _default_note()
    if not name:
        return config, note
    os.environ[_VARIABLE] = name  # a reload reads it again
    model = msgspec.structs.replace(config.model, model_id=name)
    return msgspec.structs.replace(config, model=model), note


def _default_note() -> str:
    return (
        f"no model is configured: serving {Model().model_id}; --model or model.model_id names "
        "another, and `vgate models catalogue` shows what fits"
    )


def _remembered(path: Path) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            name = file.readline(_MOST_CHARS).strip()
    except (OSError, UnicodeDecodeError):
        return ""
    return name if name.isprintable() else ""  # it becomes a variable, which can't hold any text


def _remember(path: Path, name: str) -> str:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name}\n", encoding="utf-8")
    except OSError as error:
        return f"serving {name}; that can't be remembered: {path}: {error.strerror}"
    return f"serving {name}, from now on; {path} remembers it, and --model names another"


def _asked() -> str:
    """Return the answer to which model is to be served; "" if there is none."""
    card = card_here()
    best = proposed(card)
    has = "no NVIDIA GPU" if card.name == PROCESSOR else where(card)
    _say(f"No model is chosen yet. This machine has {has}.")
    if best:
        name, fit = best
        _say(f"{name} fits: {described(fit.variant)}, {room(fit)}.")
        prompt = "Enter serves it; or type another name (`vgate models catalogue` has more): "
    else:
        name = ""
        sizes = catalogue().models
        prompt = f"Type the name of a model, such as {next(iter(sizes))}; Enter takes the default: "
    while True:
        sys.stderr.write(prompt)
        sys.stderr.flush()
        try:
            line = sys.stdin.readline()
        except KeyboardInterrupt:
            _say("")
            raise SystemExit(_INTERRUPTED) from None
        if not line:
            _say("")
        answer = line.strip() if line else "no"  # Ctrl-D
        if not answer or (name and answer.lower() in _YES):
            return name
        if answer.lower() in _NO:
            _say(
                "Nothing is started: `vgate --model NAME` serves another model, and `vgate "
                "--dry-run` a simulated one."
            )
            raise SystemExit(EXIT_FAILED)
        if not (why := _why_not(answer)):
            return answer
        _say(why.removeprefix("model.model_id: "))


def _why_not(name: str) -> str | None:
    """Return why a model that somebody has typed can't be served."""
    model = Model(model_id=name)
    if name.lower() in catalogue().models:
        return problem(model)
    if re.fullmatch(r"[\w.-]+", name) and not Path(name).exists():
        # It would be remembered, and each start would look for it on the Hub.
        close = difflib.get_close_matches(name.lower(), catalogue().models, n=1)
        meant = f"; did you mean {close[0]}?" if close else ""
        return f"{name} is not a short name, and names on the Hub have owners: Qwen/Qwen3-8B{meant}"
    try:
        find_model(model)
    except CheckpointError as error:
        return str(error)
    return None


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
