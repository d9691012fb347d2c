"""How much of a GPU or of the machine a model may take."""

import resource

import pytest

from vgate.fit.gpu import GIB, MIB
from vgate.sizing import room
from vgate.sizing.room import gib, gpu_room, host_memory, host_room, is_wsl

TOTAL = 8 * GIB


@pytest.mark.parametrize(
    ("free", "about", "share", "words"),
    [
        (TOTAL, {}, 0.92, "8.0 GiB of 8.0 GiB are free"),
        (3 * GIB, {}, 0.312, "3.0 GiB of 8.0 GiB are free"),
        (7 * GIB, {"desktop": True}, 0.75, "0.5 GiB of it left to the desktop"),
        (7 * GIB, {"wsl": True}, 0.687, "1.0 GiB of it left to Windows"),
        (TOTAL, {"share": 0.5}, 0.46, "are free"),
        (TOTAL, {"bound": 2 * GIB}, 0.25, "2.0 GiB of 8.0 GiB is what it may take"),
        (3 * GIB, {"bound": 4 * GIB}, 0.312, "3.0 GiB of 8.0 GiB are free"),
        (0, {}, 0.001, "0 MiB of 8.0 GiB are free"),
    ],
)
def test_a_gpu(free, about, share, words):
    found = gpu_room(TOTAL, free, **{"desktop": False, "wsl": False, **about})
    assert found.share == share
    assert words in found.why
    assert 0 <= found.usable <= max(0, free)


def test_vllm_starts_with_no_more_than_is_free():
    assert gpu_room(TOTAL, 3 * GIB, desktop=True, wsl=False).most_share == 0.312


def test_the_machine():
    found = host_room(8 * GIB)
    assert (found.usable, found.kv) == (int(7.2 * GIB), 2 * GIB)
    assert host_room(8 * GIB, halvings=2).kv == GIB // 2
    bound = host_room(8 * GIB, bound=GIB)
    assert (bound.usable, bound.kv) == (GIB, GIB)
    assert "1.0 GiB of memory is what it may take" in bound.why


@pytest.fixture
def groups(tmp_path, monkeypatch):
    """A control group with a parent, as `/proc` and `/sys` tell of them."""
    monkeypatch.setattr(room, "_CGROUPS", tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.setattr(room, "_PROC_CGROUP", tmp_path / "cgroup")
    (tmp_path / "cgroup").write_text("0::/a/b\n")

    def write(group, limit, used, files):
        path = tmp_path / group
        (path / "memory.max").write_text(f"{limit}\n")
        (path / "memory.current").write_text(f"{used}\n")
        (path / "memory.stat").write_text(f"anon 5\ninactive_file {files}\n")

    return write


def test_a_container_s_limit_counts_and_so_do_those_around_it(groups):
    free = host_memory()
    assert free > 100 * MIB
    groups("a/b", 100 * MIB, 40 * MIB, 10 * MIB)
    assert host_memory() == 70 * MIB
    groups("a", 60 * MIB, 50 * MIB, 0)
    assert host_memory() == 10 * MIB
    groups("a", 60 * MIB, 70 * MIB, 0)
    assert host_memory() == 0
    groups("a", "max", 50 * MIB, 0)
    groups("a/b", "max", 50 * MIB, 0)
    assert host_memory() > 100 * MIB


def test_a_limit_of_the_process_counts(monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (1 << 20, 1 << 20))
    assert host_memory() == 0


def test_windows_is_recognised(tmp_path, monkeypatch):
    version = tmp_path / "version"
    monkeypatch.setattr(room, "_VERSION", version)
    assert not is_wsl()
    version.write_text("Linux version 6.1.0-13-amd64 (debian)")
    assert not is_wsl()
    version.write_text("Linux version 5.15.153.1-microsoft-standard-WSL2 (root@x)")
    assert is_wsl()


def test_sizes_for_people():
    assert [gib(size) for size in (0, 5 * MIB, GIB, 1.26 * GIB)] == [
        *("0 MiB", "5 MiB", "1.0 GiB", "1.3 GiB"),
    ]
