"""What the dry-run engine says to which request: the rules of the file in `dry_run.script`."""

import json
import re
from pathlib import Path
from typing import Any

import msgspec

from vgate.engine.backends.base import BackendError
from vgate.engine.backends.dry_run.structured import text_of
from vgate.wire.parameters import StructuredOutput

_CHANNEL = "<|channel|>"


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

    def written(self, *, harmony: bool = False) -> str:
        """Return what is said as a model writes it: calls in Hermes' format, or all in gpt-oss's.

        A text with headers of that format is taken as it is.
        """
        if harmony:
            return self._in_harmony()
        calls = [{"name": call.name, "arguments": call.arguments} for call in self.calls]
        return self.text + "".join(f"<tool_call>{_json(call)}</tool_call>" for call in calls)

    def _in_harmony(self) -> str:
        calls = [f"{harmony_header(one.name)}{_json(one.arguments)}<|call|>" for one in self.calls]
        if self.text and _CHANNEL not in self.text:
            channel = "commentary" if calls else "final"
            return f"{_CHANNEL}{channel}<|message|>{self.text}" + (
                f"<|end|><|start|>assistant{calls[0]}" if calls else ""
            )
        return self.text + "".join(calls[:1])

    def constrained(self) -> list[str]:
        """Return what is said as structured output: the text, or the calls that must be made."""
        if not self.calls:
            return [self.text]
        required = [{"name": call.name, "parameters": call.arguments} for call in self.calls]
        return [_json(self.calls[0].arguments), _json(required)]


def harmony_header(name: str = "") -> str:
    """Return the header of a call in gpt-oss's format; of the final answer without a name."""
    if not name:
        return f"{_CHANNEL}final<|message|>"
    return f"{_CHANNEL}commentary to=functions.{name} <|constrain|>json<|message|>"


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


def constrained(structured: StructuredOutput, said: list[str], rule: Rule | None) -> str:
    """Return a text that satisfies the constraint, with its header in gpt-oss's format."""
    calls = structured.harmony
    if calls is None:
        return text_of(structured, said)
    if not calls:
        return harmony_header() + text_of(structured, said)
    named = [call.name for call in rule.calls if call.name in calls] if rule else []
    name = next(iter([*named, *calls]))
    return harmony_header(name) + text_of(StructuredOutput("json", calls[name]), said) + "<|call|>"
