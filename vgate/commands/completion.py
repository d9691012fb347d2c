"""``vgate completion``: what a shell needs to complete the command line."""

import argparse
import sys
from collections.abc import Iterator, Mapping

import msgspec

from vgate.commands.arguments import COMMANDS, build
from vgate.config import Config

NEEDS_CONFIG = False

_FILE, _VALUE, _NOTHING = "file", "value", "nothing"
# What a flag's value is called where it is, or may be, a path.
_FILES = frozenset({"FILE", "DIR", "MODEL"})
# Where the scripts differ from what is the same in all shells: a place on the command line, such as
# "vgate keys add", and what may follow there.
_BASH = """\
# Bash completion for vgate: `source <(vgate completion bash)`, for instance in ~/.bashrc.
_vgate() {{
    local at=vgate words="" flags="" with_file="" with_value="" i
    local cur=${{COMP_WORDS[COMP_CWORD]}} prev=${{COMP_WORDS[COMP_CWORD - 1]}}
    for ((i = 1; i < COMP_CWORD; i++)); do
        case "$at ${{COMP_WORDS[i]}}" in
            {deeper}) at="$at ${{COMP_WORDS[i]}}" ;;
        esac
    done
    case "$at" in
{places}
    esac
    if [[ " $with_file " == *" $prev "* ]]; then
        compopt -o filenames 2>/dev/null
        mapfile -t COMPREPLY < <(compgen -f -- "$cur")
    elif [[ " $with_value " == *" $prev "* ]]; then
        COMPREPLY=()
    elif [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur")
    else
        mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
    fi
}}
complete -F _vgate vgate
"""
_ZSH = """\
#compdef vgate
# Zsh completion for vgate: `source <(vgate completion zsh)` after compinit, in ~/.zshrc.
_vgate() {{
    local at=vgate i with_file with_value
    local -a entries flags
    for ((i = 2; i < CURRENT; i++)); do
        case "$at ${{words[i]}}" in
            {deeper}) at="$at ${{words[i]}}" ;;
        esac
    done
    case "$at" in
{places}
    esac
    local prev=${{words[CURRENT-1]}}
    if [[ " $with_file " == *" $prev "* ]]; then
        _files
    elif [[ " $with_value " == *" $prev "* ]]; then
        return 1
    elif [[ ${{words[CURRENT]}} == -* ]]; then
        _describe -o flag flags
    else
        _describe command entries
    fi
}}
if whence compdef >/dev/null; then compdef _vgate vgate; fi
"""
_FISH = """\
# Fish completion for vgate: `vgate completion fish > ~/.config/fish/completions/vgate.fish`
function __vgate_at
    set -l at vgate
    for word in (commandline -opc)[2..]
        contains -- "$at $word" {deeper}; and set at "$at $word"
    end
    test "$at" = "$argv"
end
complete -c vgate -f
{places}
"""


class Place(msgspec.Struct, frozen=True):
    """What may follow at a place: words and flags with their help, and what a flag takes."""

    words: dict[str, str]
    flags: dict[str, str]
    takes: dict[str, str]


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = "Print shell completion."
    parser.epilog = "For bash: source <(vgate completion bash). Each script says how to load it."
    parser.add_argument("shell", choices=sorted(_SHELLS))


def run(options: argparse.Namespace, _config: Config) -> None:
    """Print the script."""
    places = dict(_places(build(list(COMMANDS))[""], "vgate"))
    sys.stdout.write(_SHELLS[options.shell](places))


def _places(parser: argparse.ArgumentParser, at: str) -> Iterator[tuple[str, Place]]:
    """Yield each place below a parser; argparse has no other way to ask for them."""
    place = Place({}, {}, {})
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            place.words.update({one.dest: one.help or "" for one in action._choices_actions})  # noqa: SLF001
            for name, below in action.choices.items():
                yield from _places(below, f"{at} {name}")
        elif not action.option_strings:
            place.words.update(dict.fromkeys(map(str, action.choices or ()), ""))
        for flag in action.option_strings:
            place.flags[flag] = (action.help or "").replace("%%", "%")
            takes = _FILE if action.metavar in _FILES else _VALUE
            place.takes[flag] = _NOTHING if action.nargs == 0 else takes
    yield at, place


def _bash(places: Mapping[str, Place]) -> str:
    lines = [
        _case(at, place, f'words="{" ".join(place.words)}"', f'flags="{" ".join(place.flags)}"')
        for at, place in places.items()
    ]
    return _BASH.format(deeper=_deeper(places, " | "), places="\n".join(lines))


def _zsh(places: Mapping[str, Place]) -> str:
    def described(entries: Mapping[str, str]) -> str:
        return " ".join(_literal(f"{name}:{text}") for name, text in entries.items())

    lines = [
        _case(at, place, f"entries=({described(place.words)})", f"flags=({described(place.flags)})")
        for at, place in places.items()
    ]
    return _ZSH.format(deeper=_deeper(places, " | "), places="\n".join(lines))


def _case(at: str, place: Place, *variables: str) -> str:
    """Return the branch of a place, for bash and zsh."""
    variables += (
        f'with_file="{_taking(place, _FILE)}"',
        f'with_value="{_taking(place, _VALUE)}"',
        ";;",
    )
    return "\n".join([f'        "{at}")', *(f"            {line}" for line in variables)])


def _fish(places: Mapping[str, Place]) -> str:
    lines = []
    for at, place in places.items():
        begin = f'complete -c vgate -n "__vgate_at {at}"'
        lines += [f"{begin} -a {word} -d {_literal(text)}" for word, text in place.words.items()]
        for flag, text in place.flags.items():
            kind = f"-l {flag[2:]}" if flag.startswith("--") else f"-s {flag[1:]}"
            takes = {_FILE: " -rF", _VALUE: " -x", _NOTHING: ""}[place.takes[flag]]
            lines.append(f"{begin} {kind}{takes} -d {_literal(text)}")
    return _FISH.format(deeper=_deeper(places, " "), places="\n".join(lines))


_SHELLS = {"bash": _bash, "fish": _fish, "zsh": _zsh}


def _deeper(places: Mapping[str, Place], separator: str) -> str:
    return separator.join(f'"{at}"' for at in places if at != "vgate")


def _taking(place: Place, kind: str) -> str:
    return " ".join(flag for flag, takes in place.takes.items() if takes == kind)


def _literal(text: str) -> str:
    """Return a text that the three shells take as it is."""
    return "'" + text.replace("'", "\N{RIGHT SINGLE QUOTATION MARK}").replace("\\", "/") + "'"
