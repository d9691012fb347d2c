"""The thread that folds: what it says while it can't, and that it ends with all folded."""

import time
from datetime import date

import pytest

from tests.e2e.instance import wait_until
from vgate.usage import CountsFile, Used, folding, read_usage
from vgate.usage.folding import Folding


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(folding, "_EVERY_S", 0.01)


def use(state):
    counts = CountsFile(state / "usage")
    counts.add("k", "m", date(2030, 1, 31), Used(1))
    counts.close()


def left(state):
    return list((state / "usage").iterdir())


def test_all_is_folded_at_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(folding, "_EVERY_S", 60)
    thread = Folding(tmp_path)
    thread.start()
    time.sleep(0.05)
    use(tmp_path)
    thread.close()
    assert left(tmp_path) == []
    assert read_usage(tmp_path)[0].used == Used(1)


@pytest.mark.parametrize("broken", ["directory", "bug"])
def test_what_can_not_be_folded_waits_and_is_told(tmp_path, monkeypatch, broken):
    use(tmp_path)
    with monkeypatch.context() as patched:
        if broken == "bug":
            patched.setattr(folding.Folder, "fold", lambda _folder: 1 / 0)
        else:
            (tmp_path / "usage.db").mkdir()
        thread = Folding(tmp_path)
        thread.start()
        wait_until(lambda: thread.problem, 20, "it is told")
        assert left(tmp_path)
    if broken == "directory":
        (tmp_path / "usage.db").rmdir()
    wait_until(lambda: not thread.problem and not left(tmp_path), 20, "it is folded")
    thread.close()
    thread.close()


def test_without_a_start_there_is_nothing_to_end(tmp_path):
    Folding(tmp_path).close()
