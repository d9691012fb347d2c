"""``vgate update``: the newest version of a clone, and what has changed."""

import argparse
import importlib.metadata
import importlib.util
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vgate.commands.command import EXIT_FAILED, EXIT_OK, CommandError
from vgate.commands.machine.installation import clone
from vgate.commands.text import note, plain
from vgate.config import Config

NEEDS_CONFIG = False

_ENVIRONMENTS = ("light", "vllm-cuda", "vllm-cpu")
# Run by the new files, since this program has loaded the old ones.
_PREPARE = """\
import sys
sys.path.insert(0, sys.argv[1])
from vgate.launcher.environments.make import prepare
from vgate.launcher.environments.model import Environment, EnvironmentProblem
try:
    for name in sys.argv[2:]:
        prepare(Environment(sys.argv[1], name))
except EnvironmentProblem as problem:
    sys.exit(f"vgate: {problem}")
"""
_MOST_LINES = 40


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Update the clone (git pull --ff-only), show what changed, and prepare its environments. A "
        "clone with changes of its own is left alone. A running instance keeps its version until "
        "it is restarted."
    )
    parser.add_argument(
        "--check", action="store_true", help="only show what is new; exit status 1 if anything is"
    )


def run(options: argparse.Namespace, _config: Config) -> int:
    """Update; return the exit status."""
    root = clone()
    if root is None:
        raise CommandError(
            f"V-Gate is an installed package here; pip can update it: {_pip_command()}"
        )
    git = _Git(root)
    news = git.news()
    if not news:
        note(f"up to date: {git.ask('log', '-1', '--format=%h of %cs')}")
        return EXIT_OK
    print("\n".join(map(plain, news)))
    if options.check:
        return EXIT_FAILED
    git.ask("merge", "--ff-only", "--quiet", "@{upstream}")
    made = [name for name in _ENVIRONMENTS if (root / ".venv" / name).is_dir()]
    python = shutil.which("python3") or sys.executable
    prepared = subprocess.run([python, "-c", _PREPARE, str(root), *made], check=False)
    if prepared.returncode:
        return EXIT_FAILED
    note(
        f"updated to {git.ask('log', '-1', '--format=%h of %cs')}. An instance that runs has the "
        "earlier version until it is restarted"
    )
    return EXIT_OK


class _Git:
    """The repository of the clone."""

    def __init__(self, root: Path) -> None:
        self._root = root
        if shutil.which("git") is None:
            raise CommandError("git is not installed, and the clone is updated by it")
        if not (root / ".git").exists():
            raise CommandError(
                f"{root} is no clone of git, but a copy of the files: put the new version in its "
                "place; .venv/ and config.yaml may stay"
            )

    def ask(self, *arguments: str) -> str:
        """Return what git prints; raise `CommandError` with its words if it fails."""
        done = self._run(arguments)
        if done.returncode:
            words = " ".join((done.stderr or done.stdout).split())
            raise CommandError(f"git {arguments[0]} failed: {words}")
        return done.stdout.strip()

    def news(self) -> list[str]:
        """Fetch, and return what is new; raise `CommandError` if it can't be taken over."""
        if changed := self.ask("status", "--porcelain", "--untracked-files=no"):
            files = ", ".join(line[2:].strip() for line in changed.splitlines()[:3])
            raise CommandError(
                f"the clone has changes of its own ({files}): commit them, or put them aside with "
                f"`git -C {self._root} stash`, and run this again"
            )
        if self._run(["rev-parse", "@{upstream}"]).returncode:
            raise CommandError(
                "the clone's branch follows no other, and so has no newer version: "
                f"`git -C {self._root} switch main`, or set its upstream"
            )
        self.ask("fetch", "--quiet")
        if own := self.ask("log", "--oneline", "@{upstream}..HEAD"):
            raise CommandError(
                f"the clone has commits of its own ({len(own.splitlines())}): "
                f"`git -C {self._root} pull --rebase` keeps them on top of the new version"
            )
        return self._changes()

    def _changes(self) -> list[str]:
        """Return the new lines of the changelog, or else the commits."""
        commits = self.ask("log", "--format=- %s", "HEAD..@{upstream}").splitlines()
        difference = self.ask("diff", "HEAD...@{upstream}", "--", "CHANGELOG.md").splitlines()
        added = [line[1:] for line in difference if line.startswith("+") and line[:3] != "+++"]
        shown = [line for line in added if line.strip()] or commits
        more = len(shown) - _MOST_LINES
        return shown[:_MOST_LINES] + ([f"... and {more} lines more"] if more > 0 else [])

    def _run(self, arguments: Sequence[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            ["git", "-C", str(self._root), *arguments],  # noqa: S607 - git, wherever it is
            capture_output=True,
            text=True,
            check=False,
            stdin=subprocess.DEVNULL,
        )


def _pip_command() -> str:
    """Return how the package is updated from where it was installed from."""
    extra = "[vllm]" if importlib.util.find_spec("vllm") else ""
    try:
        origin = importlib.metadata.distribution("vgate").read_text("direct_url.json")
        url = str(json.loads(origin or "{}").get("url", ""))
    except (importlib.metadata.PackageNotFoundError, ValueError):
        url = ""
    what = f"vgate{extra} @ {url}" if url else f"vgate{extra}"
    return f"{sys.executable} -m pip install --upgrade '{what}'"
