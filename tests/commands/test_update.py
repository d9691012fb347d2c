"""`vgate update`: with real repositories of git."""

import argparse
import shutil
import subprocess

import pytest

from vgate.commands.command import CommandError
from vgate.commands.machine import update
from vgate.config import Config

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="needs git")

CHANGELOG = "# Changelog\n\n- old\n"
# Stands for the new files' own way to make an environment.
MAKE = "def prepare(environment):\n    open(environment + '/prepared', 'w').close()\n"
MODEL = (
    "class EnvironmentProblem(Exception): pass\n"
    "def Environment(clone, name): return clone + '/.venv/' + name\n"
)


class Repository:
    """A repository, and a clone of it that V-Gate runs from."""

    def __init__(self, folder):
        self.origin, self.clone = folder / "origin", folder / "clone"
        self.origin.mkdir()
        self.git(self.origin, "init", "--quiet", "--initial-branch", "main")
        self.commit("First", CHANGELOG=CHANGELOG)
        subprocess.run(["git", "clone", "--quiet", self.origin, self.clone], check=True)

    def git(self, where, *arguments):
        settings = ["-c", "user.name=x", "-c", "user.email=x@example.com"]
        subprocess.run(["git", "-C", where, *settings, *arguments], check=True)

    def commit(self, message, where=None, **files):
        where = where or self.origin
        for name, text in files.items():
            (where / f"{name}.md").write_text(text)
        self.git(where, "add", "--all")
        self.git(where, "commit", "--quiet", "--allow-empty", "-m", message)

    def publish(self):
        """Commit a version with a changelog, whose environments can be made."""
        package = self.origin / "vgate" / "launcher" / "environments"
        package.mkdir(parents=True)
        for folder in (package, package.parent, package.parents[1]):
            (folder / "__init__.py").touch()
        (package / "make.py").write_text(MAKE)
        (package / "model.py").write_text(MODEL)
        self.commit("Second", CHANGELOG=CHANGELOG + "- new: faster\n")


@pytest.fixture
def repository(tmp_path, monkeypatch):
    made = Repository(tmp_path)
    monkeypatch.setattr(update, "clone", lambda: made.clone)
    return made


@pytest.fixture
def vgate_update(capfd):
    """Run the command; return its status and what it has printed."""

    def run(*arguments):
        parser = argparse.ArgumentParser()
        update.configure(parser)
        status = update.run(parser.parse_args(arguments), Config())
        return status, *capfd.readouterr()

    return run


def test_the_new_version_is_shown_taken_over_and_prepared(repository, vgate_update):
    assert vgate_update("--check")[0] == 0
    repository.publish()
    (repository.clone / ".venv" / "light").mkdir(parents=True)
    assert vgate_update("--check") == (1, "- new: faster\n", "")
    assert not (repository.clone / "vgate").exists()
    status, out, err = vgate_update()
    assert (status, out) == (0, "- new: faster\n")
    assert "updated to" in err
    assert "until it is restarted" in err
    assert "faster" in (repository.clone / "CHANGELOG.md").read_text()
    assert (repository.clone / ".venv/light/prepared").exists()
    assert not (repository.clone / ".venv/vllm-cpu").exists()
    assert "up to date" in vgate_update()[2]


def test_without_a_line_in_the_changelog_the_commits_are_shown(repository, vgate_update):
    for number in range(45):
        repository.commit(f"Change {number}")
    lines = vgate_update("--check")[1].splitlines()
    assert lines[0] == "- Change 44"
    assert lines[-1] == "... and 5 lines more"


def test_changes_of_the_clones_own_are_left_alone(repository, vgate_update):
    repository.publish()
    (repository.clone / "CHANGELOG.md").write_text("mine")
    with pytest.raises(CommandError, match=r"changes of its own \(CHANGELOG.md\): commit them, or"):
        vgate_update()
    repository.commit("Mine", repository.clone)
    with pytest.raises(CommandError, match=r"commits of its own \(1\): `git -C .* pull --rebase`"):
        vgate_update()
    assert (repository.clone / "CHANGELOG.md").read_text() == "mine"


def test_files_that_git_does_not_know_are_no_changes(repository, vgate_update):
    (repository.clone / "keys.jsonl").write_text("secret")
    assert vgate_update()[0] == 0


def test_what_has_no_newer_version_is_told(repository, vgate_update, monkeypatch, tmp_path):
    repository.git(repository.clone, "switch", "--quiet", "-c", "other")
    with pytest.raises(CommandError, match="follows no other"):
        vgate_update()
    repository.git(repository.clone, "switch", "--quiet", "main")
    shutil.rmtree(repository.origin)
    with pytest.raises(CommandError, match=r"git fetch failed: .*does not appear to be a git"):
        vgate_update()
    monkeypatch.setattr(update, "clone", lambda: tmp_path)
    with pytest.raises(CommandError, match="is no clone of git, but a copy of the files"):
        vgate_update()
    monkeypatch.setattr(update, "clone", lambda: None)
    with pytest.raises(CommandError, match=r"update it: .* -m pip install --upgrade 'vgate"):
        vgate_update()
