"""A file of counts: what is read of it, whatever happens to its process or to the disk."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

import pytest

from vgate.usage import Folder, counts, read_usage
from vgate.usage.counts import CountsFile, Used, snapshots

DAY = date(2030, 1, 31)
ONE = Used(1, 10, 4, 20, 5)
ROOT = Path(counts.__file__).parents[2]

# Counts as fast as it can; the number of tokens follows from the number of requests.
PROGRAM = """
import sys
from datetime import date
from pathlib import Path
from vgate.usage.counts import CountsFile, Used

file = CountsFile(Path(sys.argv[1]))
print(flush=True)
while True:
    for key in "abc":
        file.add(key, "m", date(2030, 1, 31), Used(1, 2, 3, 4, 5, 6))
"""


def only(directory):
    (found,) = snapshots(directory)
    return found


def test_totals_by_key_model_and_day(tmp_path):
    file = CountsFile(tmp_path / "usage")
    file.add("a", "m", DAY, ONE)
    file.add("a", "m", DAY, Used(1, errors=1))
    file.add('b"\\ é', "org/m", DAY, ONE)
    found = only(tmp_path / "usage")
    assert found.totals == {
        ("a", "m", "2030-01-31"): Used(2, 10, 4, 20, 5, 1),
        ('b"\\ é', "org/m", "2030-01-31"): ONE,
    }
    assert not found.complete
    assert only_of(tmp_path / "usage", 'b"\\ é') == [('b"\\ é', "org/m", "2030-01-31")]
    assert only_of(tmp_path / "usage", "") == []
    file.close()
    assert only(tmp_path / "usage").complete


def only_of(directory, key):
    return [name for found in snapshots(directory, key) for name in found.totals]


def test_a_new_day_begins_a_new_file(tmp_path):
    file = CountsFile(tmp_path)
    for day in (DAY, DAY, date(2030, 2, 1)):
        file.add("a", "m", day, ONE)
    by_complete = {found.complete: found.totals for found in snapshots(tmp_path)}
    assert by_complete == {
        True: {("a", "m", "2030-01-31"): Used(2, 20, 8, 40, 10)},
        False: {("a", "m", "2030-02-01"): ONE},
    }


def test_many_names_make_it_larger(tmp_path):
    file = CountsFile(tmp_path)
    for number in range(1000):
        file.add(f"key {number}", "m" * 200, DAY, Used(number))
    found = only(tmp_path).totals
    assert [used.requests for used in found.values()] == list(range(1000))


@pytest.mark.parametrize("run", range(5))
def test_a_process_that_is_killed_has_counted_whole_requests(tmp_path, run):
    child = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    )
    assert child.stdout.readline()
    while not any(found.totals for found in snapshots(tmp_path)):
        time.sleep(0.001)
    for _ in range(20):  # while it counts
        for used in only(tmp_path).totals.values():
            assert used.requests > 0
    time.sleep(run / 1000)
    os.kill(child.pid, signal.SIGKILL)
    child.communicate()
    found = only(tmp_path)
    assert found.complete
    for used in found.totals.values():
        n = used.requests
        assert used == Used(n, 2 * n, 3 * n, 4 * n, 5 * n, 6 * n)
    numbers = [used.requests for used in found.totals.values()]
    assert max(numbers) - min(numbers) <= 1


def full(*_arguments):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_on_a_full_disk_it_counts_in_memory_until_there_is_room(tmp_path, monkeypatch):
    file = CountsFile(tmp_path)
    file.add("a", "m", DAY, ONE)
    with monkeypatch.context() as disk:
        disk.setattr(os, "posix_fallocate", full)
        for number in range(1000):  # more than the file has room for
            file.add(f"key {number}", "m" * 200, DAY, ONE)
        assert "No space left" in file.problem
        file.add("a", "m", date(2030, 2, 1), ONE)
        file.save()
        assert file.problem
        assert len(only(tmp_path).totals) < 1000
    file.save()
    assert file.problem is None
    totals = only(tmp_path).totals
    assert len(totals) == 1002
    assert totals["a", "m", "2030-02-01"] == totals["key 999", "m" * 200, "2030-01-31"] == ONE


def test_what_can_not_be_written_until_the_end_is_told(tmp_path, monkeypatch, caplog):
    file = CountsFile(tmp_path)
    file.add("a", "m", DAY, ONE)
    monkeypatch.setattr(os, "posix_fallocate", full)
    for number in range(1000):
        file.add(f"key {number}", "m" * 200, DAY, ONE)
    known = len(only(tmp_path).totals)
    file.add("a", "m", DAY, ONE)
    file.close()
    (told,) = [line for line in caplog.records if line.levelname == "ERROR"]
    assert told.getMessage() == "use is lost, as it could not be written"
    lost = 1001 - known  # the second of `a` has its place, so `close` could write it
    assert (told.vgate_fields["requests"], told.vgate_fields["tokens"]) == (lost, 30 * lost)
    assert "No space left" in told.vgate_fields["reason"]


def test_nothing_is_lost_where_nothing_could_be_made_but_nothing_was_used(tmp_path, caplog):
    CountsFile(tmp_path / "new").close()
    assert not caplog.records


def test_it_is_tried_again_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(counts, "_RETRY_S", 0)
    file = CountsFile(tmp_path)
    with monkeypatch.context() as disk:
        disk.setattr(os, "posix_fallocate", full)
        file.add("a", "m", DAY, ONE)
        assert file.problem
        assert list(tmp_path.iterdir()) == []
    file.add("a", "m", DAY, ONE)
    assert file.problem is None
    assert only(tmp_path).totals["a", "m", "2030-01-31"].requests == 2


def test_after_its_file_is_deleted_it_begins_another(tmp_path):
    file = CountsFile(tmp_path / "usage")
    file.add("a", "m", DAY, ONE)
    Folder(tmp_path).fold()
    shutil.rmtree(tmp_path / "usage")
    for _ in range(2):
        file.add("a", "m", DAY, ONE)
    file.close()
    assert only(tmp_path / "usage").totals["a", "m", "2030-01-31"].requests == 2
    Folder(tmp_path).fold()
    assert read_usage(tmp_path)[0].used.requests == 3


def test_what_is_no_file_is_left_alone(tmp_path):
    os.mkfifo(tmp_path / "pipe.counts")
    (tmp_path / "directory.counts").mkdir()
    (tmp_path / "link.counts").symlink_to("nowhere")
    assert list(snapshots(tmp_path)) == []


def test_a_damaged_file_is_read_as_far_as_it_is_whole(tmp_path):
    file = CountsFile(tmp_path)
    for key in "abc":
        file.add(key, "m", DAY, ONE)
    file.close()
    path = only(tmp_path).path
    content = path.read_bytes()
    at = content.index(b'["b"')
    path.write_bytes(content[:at] + b"\0" * (len(content) - at))
    assert [name[0] for name in only(tmp_path).totals] == ["a"]
    path.write_bytes(content[: at + 3])
    assert [name[0] for name in only(tmp_path).totals] == ["a"]
    for other in (b"", b"x", b"\0" * 100, b"x" * 100):
        path.write_bytes(other)
        assert list(snapshots(tmp_path)) == []
    assert path.exists()
