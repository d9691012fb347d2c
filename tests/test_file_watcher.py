"""A change of a file is noticed once, and only when its writer has paused."""

import os

import pytest

from vgate.file_watcher import FileWatcher


@pytest.fixture
def watched(tmp_path):
    return tmp_path / "watched"


def looks(watcher):
    """Return after how many looks a change is reported; none is reported after it."""
    found = [watcher.changed() for _ in range(10)]
    assert found.count(True) <= 1
    return found.index(True) + 1 if True in found else None


def test_the_watcher_reports_every_change_once_it_is_at_rest(watched):
    watcher = FileWatcher(watched)
    assert looks(watcher) is None
    watched.write_text("a")
    assert looks(watcher) == 2
    draft = watched.with_suffix(".draft")
    draft.write_text("b")
    os.utime(draft, ns=(watched.stat().st_atime_ns, watched.stat().st_mtime_ns))
    draft.replace(watched)
    assert looks(watcher) == 2
    watched.write_text("in place")
    assert not watcher.changed()
    watched.write_text("in place, more")
    assert looks(watcher) == 4
    assert not watcher.moved()
    watched.unlink()
    assert watcher.moved()
    assert looks(watcher) == 2
