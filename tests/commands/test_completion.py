"""`vgate completion`: the scripts, run by the shells that are there."""

import argparse
import shutil
import subprocess

import pytest

from vgate.commands import arguments, completion
from vgate.commands.arguments import COMMANDS
from vgate.config import Config

ASK_BASH = """
source "$1"
COMP_WORDS=("${@:2}")
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_vgate
printf '%s\\n' "${COMPREPLY[@]}"
"""
# zsh's own functions choose what begins with the word.
ASK_ZSH = """
source "$1"
_describe() { print -l -- "${(@P)@[-1]}" }
_files() { print -l -- * }
words=("${@:2}")
CURRENT=$#words
_vgate || true
"""
ASK_FISH = 'source "$argv[1]"; complete -C "$argv[2]"'
LINES = [
    ("vgate ", list(COMMANDS)),
    ("vgate st", ["status"]),
    ("vgate --config x.yaml ch", ["chat", "check"]),
    ("vgate status --wa", ["--watch"]),
    ("vgate keys ", ["add", "engine", "list", "revoke", "rotate"]),
    ("vgate keys --key-file k add --adm", ["--admin"]),
    ("vgate models ", ["cached", "catalogue", "list", "load", "pull", "unload"]),
    ("vgate models pull --qu", ["--quantization"]),
    ("vgate service install --u", ["--user"]),
    ("vgate completion ", ["bash", "fish", "zsh"]),
    ("vgate status --config a.y", ["a.yaml"]),
    ("vgate status --url ", []),
]


def needs(shell):
    return pytest.mark.skipif(shutil.which(shell) is None, reason=f"needs {shell}")


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """Return the path of the script for a shell, in a folder with two files."""

    def make(shell):
        completion.run(argparse.Namespace(shell=shell), Config())
        path = tmp_path / "script"
        path.write_text(capsys.readouterr().out)
        (tmp_path / "a.yaml").touch()
        (tmp_path / "b.txt").touch()
        monkeypatch.chdir(tmp_path)
        return str(path)

    return make


def ask(*command):
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


@needs("bash")
@pytest.mark.parametrize(("line", "expected"), LINES)
def test_bash_completes_commands_flags_and_files(script, line, expected):
    offered = ask("bash", "--norc", "-c", ASK_BASH, "bash", script("bash"), *line.split(" "))
    assert set(expected) <= set(offered)
    assert len(offered) <= len(expected) + (line == "vgate keys ")  # `set` may be there


@needs("fish")
@pytest.mark.parametrize(("line", "expected"), LINES)
def test_fish_completes_commands_flags_and_files(script, line, expected):
    offered = ask("fish", "--no-config", "-c", ASK_FISH, script("fish"), line)
    words = {line.split("\t")[0] for line in offered}
    assert set(expected) <= words
    described = not {"a.yaml", "bash"} & words
    assert all(("\t" in line) == described for line in offered)


@needs("zsh")
@pytest.mark.parametrize(("line", "expected"), LINES)
def test_zsh_completes_commands_flags_and_files(script, line, expected):
    offered = ask("zsh", "-f", "-c", ASK_ZSH, "zsh", script("zsh"), *line.split(" "))
    words = {entry.split(":")[0] for entry in offered}
    assert set(expected) <= words


def test_every_command_and_flag_is_described(script):
    places = dict(completion._places(completion.build(list(COMMANDS))[""], "vgate"))
    assert list(places["vgate"].words) == list(COMMANDS)
    for at, place in places.items():
        assert all(place.flags.values()), at
        if at != "vgate completion":
            assert all(place.words.values()), at


def test_an_action_takes_the_flags_of_its_command(tmp_path):
    places = dict(completion._places(completion.build(list(COMMANDS))[""], "vgate"))
    actions = [at for at in places if at.count(" ") == 2]
    assert len(actions) > 15
    for at in actions:
        assert places[at].flags.keys() >= places[at.rpartition(" ")[0]].flags.keys(), at
    for line in ("keys add a --config {}", "--config {} keys add a", "keys --config {} add a"):
        read = arguments.read(line.format(tmp_path).split())
        assert (read.config, read.action, read.name) == (str(tmp_path), "add", "a")
    read = arguments.read(["keys", "--key-file", "one", "list"])
    assert read.key_file == "one"


def test_every_command_says_what_it_does():
    parsers = completion.build(list(COMMANDS))
    assert [name for name in COMMANDS if not parsers[name].description] == []


def test_words_of_other_programs_lead_to_commands():
    meant = {word for word in arguments._OTHER_WORDS.values() if not word.startswith("-")}
    assert meant <= set(COMMANDS)
    assert not set(arguments._OTHER_WORDS) & set(COMMANDS)
