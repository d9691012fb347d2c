"""vLLM's flags among the arguments: scripts for `vllm serve` work with `vgate serve`.

What they set becomes variables, as V-Gate's own flags do. `bin/vgate` reads them before anything
is installed, so this needs only Python 3.8 and the standard library.
"""

from __future__ import annotations

import difflib
import json
import re
from collections import deque
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import vgate
from vgate.commands.arguments import COMMANDS, WITH_VALUE, WITHOUT_VALUE, Parser
from vgate.commands.flags import settings

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

SERVING = ("serve", "check")
_ENGINE_ARGS = "VGATE_MODEL__ENGINE_ARGS__"
_FACTS = Path("config", "models", "vllm.json")
# vLLM's numbers: 8k is 8,000 and 8K is 8,192.
_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
_HUMAN = re.compile(r"(\d+(?:\.\d+)?)([kmgKMG])")
# Python reads them, and JSON does not.
_DECIMAL = re.compile(r"\.\d+")
_INTEGER = re.compile(r"[+-]?\d+(?:_\d+)+")
_LEVEL = re.compile(r"-O=?([0-3]?)")
# `vgate.keys.MOST_REQUESTS`: its packages may not be installed yet when this runs.
_NO_LIMIT = 1_000_000
_REQUIRED = 2  # ssl.CERT_REQUIRED


class _FlagError(Exception):
    """A flag can't be followed: why, and what to do."""


class Translation(NamedTuple):
    """The arguments in V-Gate's words.

    Attributes:
        arguments: V-Gate's own.
        variables: What vLLM's flags set, by the name of the variable.
        flags: The flag behind each of those.
        notes: What has no effect here, each a sentence.
    """

    arguments: list[str]
    variables: dict[str, str]
    flags: dict[str, str]
    notes: list[str]


def translate(arguments: Sequence[str], of_file: Sequence[str] = ()) -> Translation:
    """Separate vLLM's flags from V-Gate's; only commands that serve take them.

    Those of a file count where the arguments have no other value. One without a value, or that
    can't be followed, ends this with status 2 and a sentence.
    """
    try:
        return _translate(arguments, of_file)
    except _FlagError as error:
        Parser(prog="vgate").error(str(error))


def _translate(arguments: Sequence[str], of_file: Sequence[str]) -> Translation:
    given: dict[str, tuple[str, Any]] = {}
    known = Known()
    of_file = _separate(of_file, given, known) or []
    own = _separate(arguments, given, known)
    if own is None:
        return Translation([*arguments], {}, {}, [])
    return _translated([*of_file, *own], given, known)


def _separate(
    arguments: Sequence[str], given: dict[str, tuple[str, Any]], known: Known
) -> list[str] | None:
    """Put vLLM's flags into what is given; return V-Gate's own, None for a command without them."""
    own: list[str] = []
    command = None
    rest = deque(arguments)
    while rest:
        word = rest.popleft()
        name, equals, _ = word.partition("=")
        if not word.startswith("-"):
            if command is None and word in COMMANDS:
                if word not in SERVING:
                    return None
                command = word
            elif command is not None and "--model" not in own:
                own.append("--model")
            own.append(word)
        elif name in (*WITH_VALUE, *WITHOUT_VALUE):
            own.append(word)
            if name not in WITHOUT_VALUE and not equals and rest:
                own.append(rest.popleft())
        elif (found := known.read(word, rest)) is not None:
            argument, flag, value = found
            before = given.get(argument, ("", None))[1]
            given[argument] = flag, _merged(before, value)
        elif close := difflib.get_close_matches(name, known.flags, n=1, cutoff=0.8):
            raise _FlagError(f"there is no flag {name}; did you mean {close[0]}?")
        else:
            own.append(word)
    return own


class Known:
    """The flags of the pinned vLLM and of earlier ones; their file is read when one is met."""

    @cached_property
    def _facts(self) -> dict[str, Any]:
        facts: dict[str, Any] = json.loads((Path(vgate.__file__).parent / _FACTS).read_bytes())
        return facts

    @cached_property
    def flags(self) -> dict[str, str]:
        """What each takes, and the argument that it sets."""
        return {**settings.FORMER, **self._facts["flags"]}

    @cached_property
    def engine(self) -> frozenset[str]:
        """The arguments of the engine."""
        return frozenset(self._facts["arguments"])

    def read(self, word: str, rest: deque[str]) -> tuple[str, str, Any] | None:
        """Return a flag's argument, name and value, which may be among the rest; None: no flag."""
        if (level := _LEVEL.fullmatch(word)) is not None:
            return "optimization_level", "-O", int(level[1] or _next("-O", rest))
        name, equals, text = word.partition("=")
        flag, _, path = name.partition(".")
        if flag.startswith("--"):
            flag = "--" + flag[2:].replace("_", "-")
        if flag not in self.flags:
            return None
        kind, argument = self.flags[flag].split()
        if kind in {"true", "false"}:
            return argument, flag, kind == "true"
        texts = [text] if equals else [] if kind.endswith("s") else [_next(flag, rest)]
        while kind.endswith("s") and rest and not rest[0].startswith("-"):
            texts.append(rest.popleft())
        values = [_parsed(one) if kind.startswith("json") else one for one in texts]
        value: Any = values if kind.endswith("s") else values[0]
        for key in reversed(path.split(".") if path else []):
            value = {key: value}
        return argument, flag, value


def _next(flag: str, rest: deque[str]) -> str:
    if not rest or rest[0].startswith("--"):
        raise _FlagError(f"argument {flag}: expected one argument")
    return rest.popleft()


def _parsed(text: str) -> Any:
    """Return the value of a number or of JSON; other text as it is."""
    if (human := _HUMAN.fullmatch(text)) is not None:
        return int(float(human[1]) * _UNITS[human[2]])
    if _INTEGER.fullmatch(text):
        return int(text)
    try:
        return float(text) if _DECIMAL.fullmatch(text) else json.loads(text)
    except ValueError:
        return text


def _merged(before: Any, value: Any) -> Any:
    """Return what a flag sets that was given before: `--x.a 1 --x.b 2` are two keys of one."""
    if not isinstance(before, dict) or not isinstance(value, dict):
        return value
    return {**before, **{key: _merged(before.get(key), one) for key, one in value.items()}}


def _translated(own: list[str], given: dict[str, tuple[str, Any]], known: Known) -> Translation:
    found = Translation(own, {}, {}, [])
    for argument, (flag, value) in given.items():
        if value == "None":  # as if it were not given
            continue
        if argument == "tokenizer" and value in own:  # the model's own
            continue
        if argument in settings.REFUSED and value not in (False, "", []):
            raise _FlagError(f"{flag} can't be followed: {settings.REFUSED[argument]}")
        for variable, text in _variables(argument, value, given, known.engine):
            found.variables[variable] = text
            found.flags[variable] = flag
        if argument in settings.REFUSED or argument in settings.ALWAYS or value is False:
            continue
        if argument in settings.FOUND and flag not in found.flags.values():
            found.notes.append(f"{flag} {value}: the format is that of the model's chat template")
        elif flag not in found.flags.values():
            found.notes.append(f"{flag} has no effect here")
    return found


def _variables(
    argument: str, value: Any, given: dict[str, tuple[str, Any]], engine: frozenset[str]
) -> Iterable[tuple[str, str]]:
    """Yield the variables that an argument sets, and their values."""
    if not isinstance(value, (dict, list)):
        value = settings.WORDS.get((argument, value), value)
    if argument in settings.SAME:
        yield settings.SAME[argument], _text(value)
    elif argument == "kv_cache_dtype" and value in settings.KV_CACHES:
        yield "VGATE_MODEL__KV_CACHE_DTYPE", _text(value)
    elif argument == "tool_call_parser":
        if value in settings.TOOL_PARSERS:
            yield "VGATE_MODEL__TOOL_PARSER", settings.TOOL_PARSERS[value]
    elif argument == "lora_modules":
        yield "VGATE_MODEL__LORA_ADAPTERS", json.dumps([*map(_adapter, value)])
    elif argument == "api_key" and any(value):
        yield "VGATE_SECURITY__ENABLED", "true"
        yield "VGATE_SECURITY__API_KEYS", keys([key for key in value if key])
    elif argument == "ssl_ca_certs":
        # vLLM asks for no certificate unless this says so.
        if given.get("ssl_cert_reqs", ("", 0))[1] == _REQUIRED:
            yield "VGATE_SERVER__TLS__CLIENT_CA", _text(value)
    elif argument in engine - settings.TAKEN:
        yield _ENGINE_ARGS + argument.upper(), json.dumps(value)


def keys(plain: Sequence[str]) -> str:
    """Return `security.api_keys` for keys without limits, as vLLM's have none."""
    named = enumerate(plain, start=1)
    return json.dumps(
        [{"name": f"key-{n}", "key": key, "rate_limit": _NO_LIMIT} for n, key in named]
    )


def _adapter(text: str) -> dict[str, str]:
    name, equals, path = text.partition("=")
    if equals and "," not in text:
        return {"name": name, "path": path}
    try:
        given = json.loads(text)
        return {"name": given["name"], "path": given["path"]}
    except (ValueError, TypeError, KeyError):
        raise _FlagError(f"argument --lora-modules: {text} is not NAME=PATH") from None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
