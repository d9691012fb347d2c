"""Downloads from a Hub on this machine that cuts, spoils, refuses and is slow."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub
import pytest

from tests.hub.fake_hub import NAME, fake_hub, sha256
from tests.hub.settings import forget_settings
from tests.small_disk import fill, small_disk
from vgate.hub import HubError, download, fetch, listing, transfer
from vgate.hub.files import Place, needed

WEIGHTS = bytes(range(256)) * 12_000  # 3 MB
FILES = {
    "config.json": b"{}",
    "tokenizer.json": b"{}" * 100,
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"x" * 200_000,
    "README.md": b"hello",
}
WANTED = ["config.json", "model.safetensors", "tokenizer.json"]
DEADLINE_S = 30


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Nothing of the machine's own settings, and waits that take no time."""
    forget_settings(monkeypatch, tmp_path / "home")
    monkeypatch.setattr(transfer, "_FIRST_WAIT_S", 0.001)
    monkeypatch.setattr(download, "_REPORT_EVERY_S", 0.0)
    monkeypatch.setattr(download, "_LOOK_EVERY_S", 0.01)


@pytest.fixture
def hub(monkeypatch):
    with fake_hub(FILES) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
    huggingface_hub.close_session()


@pytest.fixture
def get():
    """Fetch the model; return the contents by name, what was reported and what was said."""

    def run(revision=None):
        reports, said = [], []
        directory = fetch(NAME, revision, lambda *one: reports.append(one), said.append)
        found = {path.name: path.read_bytes() for path in directory.iterdir()}
        return found, reports, said

    return run


def blob(home, content=WEIGHTS):
    return home / "home/hub" / f"models--{NAME.replace('/', '--')}" / "blobs" / sha256(content)


def unfinished(home):
    return blob(home).with_name(f"{blob(home).name}.incomplete")


def test_only_what_is_needed_comes_whole(hub, get, tmp_path):
    found, reports, said = get()
    assert sorted(found) == WANTED
    assert found["model.safetensors"] == WEIGHTS
    total = sum(len(FILES[name]) for name in WANTED)
    done = [done for done, _ in reports]
    assert {of for _, of in reports} == {total}
    assert done == sorted(done)
    assert done[-1] == total
    assert len(done) > 2
    assert said == []
    assert blob(tmp_path).read_bytes() == WEIGHTS


def test_what_is_there_is_not_asked_for_again(hub, get, monkeypatch):
    get()
    hub.requests.clear()
    found, reports, _ = get()
    assert sorted(found) == WANTED
    assert reports == []
    assert len(hub.requests) == 1  # whether there is a newer version
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert sorted(get()[0]) == WANTED
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    for status in (503, 429, 401):
        hub.refuse["/api/"] = (status, {}, None)
        found, _, said = get()
        assert sorted(found) == WANTED
        assert said == [f"{hub.url} answered {status}: what is in the cache is taken"]


def test_offline_takes_the_cache_or_says_so(hub, get, monkeypatch):
    get()
    hub.requests.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.close_session()
    assert sorted(get()[0]) == WANTED
    assert hub.requests == []
    with pytest.raises(HubError, match="not in the cache, and HF_HUB_OFFLINE is set: unset"):
        get("v1")


def test_a_new_version_takes_over_what_has_not_changed(hub, get):
    get()
    hub.commit, hub.files["config.json"] = "b" * 40, b'{"new": 1}'
    hub.requests.clear()
    found, reports, _ = get()
    assert found["config.json"] == b'{"new": 1}'
    assert found["model.safetensors"] == WEIGHTS
    assert hub.asked("model.safetensors") == []
    assert reports[-1][0] == reports[-1][1]


def test_a_revision_is_found_again_without_the_hub(hub, get, monkeypatch):
    assert sorted(get("v1")[0]) == WANTED
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert sorted(get("v1")[0]) == WANTED
    with pytest.raises(HubError, match="can't be reached"):
        get("main")


def test_a_silent_hub_is_not_asked_again_after_a_while(get, monkeypatch):
    asked = []

    def silent(name, _revision):
        asked.append(name)
        raise TimeoutError("timed out")

    monkeypatch.setattr(listing, "_asked", silent)
    monkeypatch.setattr(listing, "_SILENT_S", 0.0)
    with pytest.raises(HubError, match=r"can't be reached .timed out.*HF_ENDPOINT") as caught:
        get()
    assert caught.value.permanent
    assert asked == [NAME]


def test_a_part_in_the_cache_makes_nobody_less_patient(hub, get, tmp_path):
    get()
    # As after a program that needs the tokenizer only.
    (link,) = blob(tmp_path).parent.parent.glob("snapshots/*/model.safetensors")
    link.unlink()
    blob(tmp_path).unlink()
    hub.refuse["/api/models"] = 503, {}, 2
    assert sorted(get()[0]) == WANTED


def test_a_hub_that_refuses_for_now_is_asked_again_after_a_while(hub, get, monkeypatch):
    monkeypatch.setattr(listing, "_SILENT_S", 0.0)
    hub.refuse["/api/models"] = 503, {}, 3
    assert sorted(get()[0]) == WANTED


def test_a_connection_that_is_cut_goes_on_where_it_was(hub, get):
    hub.cuts, hub.cut_after = 3, 700_000
    found, reports, _ = get()
    assert found["model.safetensors"] == WEIGHTS
    starts = [int(part[6:-1]) for part in hub.asked("model.safetensors") if part]
    assert starts == sorted(starts)
    assert len(starts) == 3
    assert starts[0] > 0
    assert reports[-1][0] == reports[-1][1]


def test_a_connection_that_stalls_is_left(hub, get, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DOWNLOAD_TIMEOUT", 0.3)
    hub.stalls, hub.cut_after = 1, 700_000
    assert get()[0]["model.safetensors"] == WEIGHTS
    assert [part != "" for part in hub.asked("model.safetensors")] == [False, True]


def test_a_mirror_without_ranges_sends_all_again(hub, get):
    hub.cuts, hub.cut_after, hub.ranges = 2, 700_000, False
    found, reports, _ = get()
    assert found["model.safetensors"] == WEIGHTS
    assert max(done for done, _ in reports) <= sum(len(FILES[name]) for name in WANTED)


def test_a_spoiled_file_is_fetched_once_more(hub, get, tmp_path):
    hub.spoil = 1
    assert get()[0]["model.safetensors"] == WEIGHTS
    assert hub.asked("model.safetensors") == ["", ""]


def test_a_file_that_stays_spoiled_is_refused(hub, get, tmp_path):
    hub.spoil = 2
    with pytest.raises(HubError, match=r"model.safetensors came damaged twice \(its SHA-256"):
        get()
    assert not blob(tmp_path).exists()
    assert get()[0]["model.safetensors"] == WEIGHTS


@pytest.mark.parametrize("left", [WEIGHTS[:100_000], b"?" * 100_000, WEIGHTS + b"more"])
def test_what_an_earlier_try_left_is_used_and_checked(hub, get, tmp_path, left):
    path = unfinished(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_bytes(left)
    assert get()[0]["model.safetensors"] == WEIGHTS
    first = hub.asked("model.safetensors")[0]
    assert first == (f"bytes={len(left)}-" if len(left) < len(WEIGHTS) else "")


@pytest.mark.parametrize("part", ["/api/", "/model.safetensors"])
def test_waiting_as_long_as_the_hub_asks(hub, get, monkeypatch, part):
    waited = []
    monkeypatch.setattr(threading.Event, "wait", lambda _self, timeout=None: waited.append(timeout))
    hub.refuse[part] = (429, {"Retry-After": "7"}, 2)
    found, _, said = get()
    assert found["model.safetensors"] == WEIGHTS
    assert said == ["asked to wait 7 s"] * 2
    assert waited.count(7.0) == 2


@pytest.mark.parametrize(
    ("path", "status", "headers", "said"),
    [
        ("/api/", 401, {"X-Error-Code": "GatedRepo"}, "accepted first. Do that at {url}/me/model"),
        ("/api/", 403, {}, "then set HF_TOKEN to a token of the same account"),
        ("/model.safetensors", 403, {"X-Error-Code": "GatedRepo"}, "accepted first. Do that at"),
        ("/api/", 401, {}, "has no such model, or shows it to some only. Check the name"),
        ("/api/", 404, {"X-Error-Code": "RepoNotFound"}, "for a private model set HF_TOKEN"),
        ("/api/", 404, {"X-Error-Code": "RevisionNotFound"}, "no branch, tag or commit main"),
    ],
)
def test_a_refusal_is_told_in_words(hub, get, path, status, headers, said):
    hub.refuse[path] = (status, headers, None)
    with pytest.raises(HubError) as refused:
        get()
    assert refused.value.permanent
    assert said.format(url=hub.url) in str(refused.value)
    assert str(refused.value).startswith("cannot fetch the model me/model: ")


@pytest.mark.parametrize(("part", "status"), [("/api/", 500), ("/model.safetensors", 502)])
def test_a_hub_that_stays_broken_is_given_up_for_now(hub, get, part, status):
    hub.refuse[part] = (status, {}, None)
    said = []
    with pytest.raises(HubError, match=f"answered {status}. Check the network") as refused:
        fetch(NAME, None, lambda *_: None, said.append)
    assert not refused.value.permanent
    assert said == [f"{hub.url} answered {status}; trying again"]
    assert len([path for _, path, _ in hub.requests if part in path]) == 6


def test_the_storage_gets_no_token(hub, get, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with fake_hub(FILES) as storage:
        hub.storage = storage.url
        storage.cuts, storage.cut_after = 1, 700_000
        assert get()[0]["model.safetensors"] == WEIGHTS
    assert set(storage.tokens) == {None}
    assert [part != "" for part in storage.asked("model.safetensors")] == [False, True]
    assert set(hub.tokens) == {"Bearer hf_secret"}


def test_a_mirror_that_tells_no_hashes_serves(hub, get):
    hub.hashes = False
    found, reports, _ = get()
    assert sorted(found) == WANTED
    assert found["model.safetensors"] == WEIGHTS
    assert reports
    assert reports[-1][0] == sum(len(FILES[name]) for name in WANTED)


def test_a_file_of_a_size_that_nobody_tells(hub, get, monkeypatch):
    hub.hashes, hub.told = False, ""
    monkeypatch.setattr(transfer, "_MOST_UNTOLD_BYTES", len(WEIGHTS) - 1)
    with pytest.raises(HubError, match=r"model.safetensors has more than .* tells no size"):
        get()
    monkeypatch.setattr(transfer, "_MOST_UNTOLD_BYTES", len(WEIGHTS))
    assert get()[0]["model.safetensors"] == WEIGHTS


def test_a_file_for_which_there_is_no_room_if_its_server_is_right(hub, get):
    hub.hashes, hub.told = False, "1000000000000000"
    with pytest.raises(HubError, match=r"has 1,000,000,000,000,000 bytes, .* has room for"):
        get()


def test_a_huge_file_is_left_to_the_library(hub, get, monkeypatch):
    monkeypatch.setattr(download, "_MOST_BYTES", 1_000_000)
    found, reports, _ = get()
    assert found["model.safetensors"] == WEIGHTS
    assert reports[-1][0] == reports[-1][1] == sum(len(FILES[name]) for name in WANTED)


@pytest.mark.parametrize("name", ["../../evil.json", "/evil.json", "a/../evil.json", "a//b.json"])
def test_no_file_is_written_beside_the_model(hub, get, tmp_path, name):
    hub.files[name] = WEIGHTS
    assert sorted(get()[0]) == WANTED
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("hashes", [True, False])
def test_no_file_is_written_where_the_server_names_it(hub, get, tmp_path, hashes):
    hub.hashes, hub.etag = hashes, "../../../../evil"
    found, _, _ = get()
    assert {name: found[name] for name in WANTED} == {name: FILES[name] for name in WANTED}
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("hashes", [True, False])
def test_a_small_file_that_comes_damaged_is_refused_where_its_hash_is_known(hub, get, hashes):
    hub.hashes, hub.small_spoil = hashes, 2
    if not hashes:
        assert get()[0]["config.json"] == b"!}"
        return
    with pytest.raises(HubError, match=r"config.json came damaged twice \(its git hash is not"):
        get()
    hub.small_spoil = 1
    assert get()[0]["config.json"] == b"{}"


@pytest.mark.parametrize("hashes", [True, False])
def test_an_empty_file_is_a_file(hub, get, hashes):
    hub.hashes, hub.files["added_tokens.json"] = hashes, b""
    assert get()[0]["added_tokens.json"] == b""


def test_a_file_of_unknown_size_goes_on_where_it_was(hub, get):
    hub.hashes, hub.cuts, hub.cut_after = False, 2, 700_000
    found, reports, _ = get()
    assert found["model.safetensors"] == WEIGHTS
    assert [part != "" for part in hub.asked("model.safetensors")] == [False, True, True]
    assert all(done <= of for done, of in reports)


def test_a_list_of_files_without_end_is_refused(hub, get, monkeypatch):
    monkeypatch.setattr(listing, "_MOST_FILES", 2)
    with pytest.raises(HubError, match="it has 3 files, and a model has 2 at most") as refused:
        get()
    assert refused.value.permanent
    monkeypatch.setattr(listing, "_MOST_LIST_BYTES", 300)
    with pytest.raises(HubError, match="the list of its files has more than 0 MB") as refused:
        get()
    assert refused.value.permanent
    assert not any("resolve" in path for _, path, _ in hub.requests)


@pytest.mark.parametrize("commit", ["../../../evil", "/evil", "", "main"])
def test_no_folder_is_made_of_what_is_no_commit(hub, get, tmp_path, commit):
    hub.commit = commit
    with pytest.raises(HubError, match="names no commit of it: set HF_ENDPOINT"):
        get()
    assert not list(tmp_path.rglob("evil*"))
    assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("size", [100_000, -1, 0])
def test_a_file_that_is_longer_than_listed_ends(hub, get, tmp_path, size):
    hub.listed_bytes = size
    with pytest.raises(HubError, match=r"model.safetensors (is longer than|came damaged)"):
        get()
    assert unfinished(tmp_path).stat().st_size <= max(0, size)


@pytest.mark.parametrize("name", ["me/né", "me/a--b", "me/.."])
def test_what_is_no_name_is_not_asked_for(hub, name):
    said = []
    with pytest.raises(HubError, match="this is no name on the Hub") as refused:
        fetch(name, None, lambda *_: None, said.append)
    assert refused.value.permanent
    assert said == []


def test_a_mirror_without_a_scheme_is_refused_at_once(monkeypatch, get):
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    with pytest.raises(HubError, match=r"HF_ENDPOINT, mirror\.example, is no address"):
        get()


def test_names_are_quoted(hub, get):
    hub.files["a b#?.safetensors"] = WEIGHTS[::-1]
    assert get()[0]["a b#?.safetensors"] == WEIGHTS[::-1]


def test_the_token_is_sent(hub, get, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    get()
    assert set(hub.tokens) == {"Bearer hf_secret"}


def test_a_full_disk_is_told_before_and_while_it_fills(hub, get, monkeypatch, tmp_path):
    with small_disk(tmp_path / "small", 2000) as disk:
        monkeypatch.setenv("HF_HOME", str(disk))
        with pytest.raises(HubError, match=r"3.1 MB are missing, and .*small/hub has room for"):
            get()
        assert hub.asked("model.safetensors") == []
        room = type("Usage", (), {"free": 1 << 40})
        monkeypatch.setattr(download.shutil, "disk_usage", lambda _path: room)
        with pytest.raises(HubError, match="No space left on device") as full:
            get()
        assert full.value.permanent
        # What has come is kept, for when there is room.
        left = [found.stat().st_size for found in disk.rglob("*.incomplete")]
        assert max(left) > 1_000_000
        fill(disk)
        with pytest.raises(HubError, match="No space left on device"):
            get("v1")


def test_two_at_once_download_once(hub, get):
    hub.pieces_s = 0.005
    results = []
    threads = [threading.Thread(target=lambda: results.append(get())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE_S)
    assert [found["model.safetensors"] == WEIGHTS for found, _, _ in results] == [True, True]
    assert hub.asked("model.safetensors") == [""]
    assert sorted(said for _, _, said in results) == [
        [],
        ["waiting for another process that downloads it"],
    ]
    # The one that waits reports how far the other is.
    for _, reports, _ in results:
        done = [done for done, _ in reports]
        assert len(done) > 5
        assert done == sorted(done)


def test_two_may_name_a_version_at_once(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    place, both, write = Place(NAME, "a" * 40), threading.Barrier(2), Path.write_text

    def written(path, *content, **options):
        write(path, *content, **options)
        both.wait(DEADLINE_S)

    monkeypatch.setattr(Path, "write_text", written)
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(place.name_commit, ["main", "main"]))
    assert [path.name for path in (place.root / "refs").iterdir()] == ["main"]
    assert (place.root / "refs" / "main").read_text() == "a" * 40


PROGRAM = "import sys; from vgate.launcher.cli import main; sys.exit(main(sys.argv[1:]))"


def test_an_interrupted_pull_goes_on_where_it_ended(hub, tmp_path):
    hub.pieces_s = 0.03
    command = [sys.executable, "-c", PROGRAM, "models", "pull", NAME]
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    options = {"cwd": tmp_path, "env": environment, "text": True}
    first = subprocess.Popen(command, stdout=subprocess.PIPE, **options)
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if unfinished(tmp_path).stat().st_size > 500_000:
                break
        time.sleep(0.01)
    first.send_signal(signal.SIGINT)
    out, _ = first.communicate(timeout=DEADLINE_S)
    assert first.returncode == 130
    assert "stopped; the same command goes on from here" in out
    left = unfinished(tmp_path).stat().st_size
    assert left > 500_000
    hub.pieces_s = 0.0
    # An empty config.json is no model: that is told, once all is there.
    done = subprocess.run(command, capture_output=True, check=False, **options)
    assert "is downloaded, but it can't be served" in done.stderr
    assert hub.asked("model.safetensors") == ["", f"bytes={left}-"]
    assert blob(tmp_path).read_bytes() == WEIGHTS


@pytest.mark.parametrize(
    ("names", "dropped"),
    [
        (["model.safetensors", "pytorch_model.bin", "training_args.bin"], 2),
        (["model-1.safetensors", "consolidated.safetensors", "params.json"], 2),
        (["pytorch_model.bin"], 0),
        (["consolidated.safetensors"], 0),
        (["model.safetensors", "onnx/model.onnx", "onnx/config.json", "openvino/a.xml"], 3),
        (["model.safetensors", "metal/model.bin", "original/model.safetensors"], 2),
        (["1_Pooling/config.json", "2_Dense/model.safetensors", "model.safetensors"], 0),
        (["model.safetensors", "model.Q4_K_M.gguf", "tf_model.h5", "flax_model.msgpack"], 3),
        (["model.safetensors", "chat_template.jinja", "tokenizer.model", "merges.txt"], 0),
    ],
)
def test_which_files_are_needed(names, dropped):
    found = needed(["config.json", *names])
    assert "config.json" in found
    assert len(found) == 1 + len(names) - dropped
