"""What the dry-run engine says to which request: the rules of the file in `dry_run.script`."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from vgate.engine.backends.base import BackendError


class Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A tool call."""

    name: str
    arguments: dict[str, Any] = {}


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said: `text`, then `calls`.

    Attributes:
        last: A regular expression that must be found in the conversation's last message.
        prompt: One that must be found in the whole prompt, as the template wrote it.
    """

    last: str | None = None
    prompt: str | None = None
    text: str = ""
    calls: list[Call] = []

    def written(self) -> str:
        """Return what is said as a model writes it: calls in Hermes' format."""
        calls = [{"name": call.name, "arguments": call.arguments} for call in self.calls]
        return self.text + "".join(f"<tool_call>{_json(call)}</tool_call>" for call in calls)

    def constrained(self) -> list[str]:
        """Return what is said as structured output: the text, or the calls that must be made."""
        if not self.calls:
            return [self.text]
        required = [{"name": call.name, "parameters": call.arguments} for call in self.calls]
        return [_json(self.calls[0].arguments), _json(required)]


class Script:
    """The rules; the first whose expressions are both found applies."""

    def __init__(self, rules: list[Rule]) -> None:
        self._rules = [(_compiled(rule.last), _compiled(rule.prompt), rule) for rule in rules]

    def rule_for(self, last: str, prompt: str) -> Rule | None:
        """Return the rule for a last message and its whole prompt; None if none applies."""
        matching = (
            rule
            for in_last, in_prompt, rule in self._rules
            if in_last.search(last) and in_prompt.search(prompt)
        )
        return next(matching, None)


def load_script(path: str | None) -> Script | None:
    """Return the script in a YAML or JSON file; None without one.

    Raises:
        BackendError: The file can't be read, or is no list of rules.
    """
    if path is None:
        return None
    try:
        return Script(msgspec.yaml.decode(Path(path).read_bytes(), type=list[Rule]))
    except (OSError, msgspec.MsgspecError, re.error) as error:
        raise BackendError(f"cannot use the script of the dry run, {path}: {error}") from error


def _compiled(expression: str | None) -> re.Pattern[str]:
    return re.compile(expression or "", re.DOTALL)


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
