"""The ledger: folding loses and doubles nothing, wherever it is interrupted."""

import sqlite3
from datetime import date
from pathlib import Path

import pytest

from vgate.usage import CountsFile, Folder, LedgerError, Used, read_usage
from vgate.usage.counts import snapshots

DAY, NEXT = date(2030, 1, 31), date(2030, 2, 1)
ONE = Used(1, 10, 4, 20, 5)


def sums(state, *by, **which):
    return [((row.key, row.model, row.day), row.used) for row in read_usage(state, by, **which)]


def total(state):
    found = sums(state)
    return found[0][1].requests if found else 0


def test_nothing_is_there_yet(tmp_path):
    assert read_usage(tmp_path / "none") == []
    Folder(tmp_path / "none").fold()
    assert not (tmp_path / "none").exists()


def test_use_is_grouped_and_filtered(tmp_path):
    file = CountsFile(tmp_path / "usage")
    for key, model, day in (("a", "m", DAY), ("a", "n", DAY), ("b", "m", DAY), ("a", "m", NEXT)):
        file.add(key, model, day, ONE)
    two = Used(2, 20, 8, 40, 10)
    for _ in range(2):
        assert sums(tmp_path, "key", "model", "day") == [
            (("a", "m", "2030-01-31"), ONE),
            (("a", "n", "2030-01-31"), ONE),
            (("b", "m", "2030-01-31"), ONE),
            (("a", "m", "2030-02-01"), ONE),
        ]
        assert sums(tmp_path, "key", until=DAY) == [
            (("a", None, None), two),
            (("b", None, None), ONE),
        ]
        assert sums(tmp_path, "model", since=NEXT) == [((None, "m", None), ONE)]
        assert sums(tmp_path, "model", "day", key="a", until=DAY) == [
            ((None, "m", "2030-01-31"), ONE),
            ((None, "n", "2030-01-31"), ONE),
        ]
        Folder(tmp_path).fold()


def test_a_total_is_the_same_at_every_moment(tmp_path):
    folder = Folder(tmp_path)
    files = [CountsFile(tmp_path / "usage") for _ in range(3)]
    count = 0
    for number in range(30):
        files[number % 3].add("a", "m", DAY, ONE)
        count += 1
        assert total(tmp_path) == count
        if number % 4 == 0:
            folder.fold()
            assert total(tmp_path) == count
        if number % 7 == 0:
            files[number % 3].close()
            assert total(tmp_path) == count
        if number == 20:
            folder = Folder(tmp_path)  # the launcher's successor
    for file in files:
        file.close()
    folder.fold()
    assert total(tmp_path) == count
    assert not list((tmp_path / "usage").iterdir())
    folder.fold()
    assert total(tmp_path) == count


def test_whatever_is_interrupted_is_done_again_without_doubling(tmp_path, monkeypatch):
    file = CountsFile(tmp_path / "usage")
    file.add("a", "m", DAY, ONE)
    Folder(tmp_path).fold()
    file.add("a", "m", DAY, ONE)
    file.close()

    def killed(*_arguments, **_more):
        raise KeyboardInterrupt

    for place in ((Path, "unlink"), (Folder, "_put")):
        with monkeypatch.context() as broken:
            broken.setattr(*place, killed)
            with pytest.raises(KeyboardInterrupt):
                Folder(tmp_path).fold()
        assert total(tmp_path) == 2
    Folder(tmp_path).fold()
    assert total(tmp_path) == 2
    assert not list(snapshots(tmp_path / "usage"))


def test_two_launchers_share_it(tmp_path):
    first, second = Folder(tmp_path), Folder(tmp_path)
    file = CountsFile(tmp_path / "usage")
    for number in range(10):
        file.add("a", "m", DAY, ONE)
        (first, second)[number % 2].fold()
    # One has read the file, and the other is faster.
    (seen,) = snapshots(tmp_path / "usage")
    file.add("a", "m", DAY, ONE)
    file.close()
    first.fold()
    from vgate.usage import ledger

    database = ledger._open(tmp_path)
    second._put(database, [seen])
    database.close()
    assert total(tmp_path) == 11


def test_an_older_file_takes_nothing_away(tmp_path):
    # As after a crash of the machine: the ledger was on the disk, the file's last pages were not.
    file = CountsFile(tmp_path / "usage")
    file.add("a", "m", DAY, ONE)
    (path,) = (tmp_path / "usage").iterdir()
    older = path.read_bytes()
    file.add("a", "m", DAY, ONE)
    Folder(tmp_path).fold()
    file.close()
    path.write_bytes(older)
    assert total(tmp_path) == 2
    Folder(tmp_path).fold()
    assert total(tmp_path) == 2


def test_a_ledger_that_was_moved_away_gets_what_files_still_have(tmp_path):
    folder = Folder(tmp_path)
    file = CountsFile(tmp_path / "usage")
    file.add("a", "m", DAY, ONE)
    folder.fold()
    (tmp_path / "usage.db").rename(tmp_path / "old.db")
    file.close()
    folder.fold()
    assert total(tmp_path) == 1


def test_what_can_not_be_folded_stays(tmp_path):
    file = CountsFile(tmp_path / "usage")
    file.add("a", "m", DAY, ONE)
    file.close()
    (tmp_path / "usage.db").write_bytes(b"not a database, but long enough for a header" * 9)
    for work in (Folder(tmp_path).fold, lambda: read_usage(tmp_path)):
        with pytest.raises(LedgerError, match=r"usage\.db: file is not a database"):
            work()
    (tmp_path / "usage.db").unlink()
    assert total(tmp_path) == 1


def test_counts_that_can_not_be_listed_are_not_left_out(tmp_path):
    (tmp_path / "usage").write_text("no directory")
    with pytest.raises(LedgerError, match="usage: Not a directory"):
        read_usage(tmp_path)
    with pytest.raises(LedgerError, match="usage: Not a directory"):
        Folder(tmp_path).fold()


def test_only_its_owner_can_read_it(tmp_path):
    CountsFile(tmp_path / "usage").add("a", "m", DAY, ONE)
    Folder(tmp_path).fold()
    for path in tmp_path.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0, path


def test_it_is_read_while_it_is_written(tmp_path):
    file = CountsFile(tmp_path / "usage")
    file.add("a", "m", DAY, ONE)
    Folder(tmp_path).fold()
    with sqlite3.connect(tmp_path / "usage.db") as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("UPDATE usage SET requests = 100")
        assert total(tmp_path) == 1
        writer.rollback()
    writer.close()
