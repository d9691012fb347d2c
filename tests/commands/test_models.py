"""`vgate models pull` and `catalogue`, and short names elsewhere."""

import json
import os
import re
import socket
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import yaml

from tests.hub.fake_hub import fake_hub
from vgate.commands.models import pull, residency
from vgate.hub import transfer
from vgate.launcher.cli import main

AWQ = "Qwen/Qwen3-8B-AWQ"


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """No GPU, no settings, an empty cache."""
    for name in [*os.environ]:
        if name.startswith(("VGATE_", "HF_", "HUGGINGFACE", "HUGGING_FACE", "http_", "HTTP_")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(transfer, "_FIRST_WAIT_S", 0.001)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        monkeypatch.setenv("VGATE_SERVER__PORT", str(probe.getsockname()[1]))
    monkeypatch.setenv("VGATE_SERVER__RUN_DIR", str(tmp_path / "run"))


@pytest.fixture
def vgate(capsys):
    def run(*arguments):
        status = main([*arguments])
        told = capsys.readouterr()
        assert "Traceback" not in told.err
        return status, told.out, told.err

    return run


@pytest.fixture
def hub(tiny_model_dir, monkeypatch):
    """A Hub whose only model, a tiny one, is called as one of the catalogue."""
    files = {path.name: path.read_bytes() for path in tiny_model_dir.iterdir() if path.is_file()}
    with fake_hub(files, AWQ) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.url)
        yield server
    huggingface_hub.close_session()


def gpu(tmp_path, line):
    program = tmp_path / "bin" / "nvidia-smi"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\necho '{line}'\n")
    program.chmod(0o755)


def test_pull_takes_the_version_that_fits_and_says_why(vgate, hub):
    status, out, err = vgate("models", "pull", "qwen3:8b", "--vram", "12GiB")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    # The figures are `vgate fit`'s, whose estimates of what only a GPU can tell may change.
    assert re.match(
        rf"qwen3:8b is {AWQ} \(AWQ, 4 bit, 6.1 GB\): 2 answers of 1\d,\d+ tok", lines[0]
    )
    assert re.match(
        r"  not Qwen/Qwen3-8B \(16 bit, 16.4 GB\): does not fit by [45].. GiB", lines[1]
    )
    assert "  not Qwen/Qwen3-8B-FP8 (FP8, 9.4 GB): 2 answers of " in lines[2]
    directory = Path(lines[-1].removeprefix(f"{AWQ} is in "))
    assert (directory / "config.json").read_bytes() == hub.files["config.json"]
    # What is downloaded is taken from now on, and not asked for again.
    hub.requests.clear()
    status, out, _ = vgate("models", "pull", AWQ)
    assert (status, out) == (0, f"{AWQ} is in {directory}\n")
    assert len(hub.requests) == 1


def test_pull_takes_the_card_of_the_machine(vgate, hub, tmp_path):
    gpu(tmp_path, "NVIDIA GeForce RTX 3060, 12288, 11900, 8.6")
    assert "on NVIDIA GeForce RTX 3060 (12.0 GiB)" in vgate("models", "pull", "qwen3:8b")[1]


def test_pull_takes_the_version_that_is_asked_for(vgate, hub):
    status, out, err = vgate("models", "pull", "qwen3:8b", "--vram", "4", "--quantization", "int4")
    assert (status, err) == (0, "")
    assert "6.1 GB): does not fit by" in out
    # As it is, whether the card computes it or not.
    hub.refuse["/api/"] = (404, {"X-Error-Code": "RepoNotFound"}, None)
    _, out, _ = vgate("models", "pull", "qwen3:8b", "--quantization", "fp8")
    assert out.startswith("qwen3:8b is Qwen/Qwen3-8B-FP8 (FP8, 9.4 GB): ")
    status, _, err = vgate("models", "pull", "qwen2.5:7b", "--quantization", "fp8")
    assert status == 2
    assert "the catalogue has qwen2.5:7b as bf16, int4" in err
    status, _, err = vgate("models", "pull", AWQ, "--quantization", "fp8")
    assert status == 2
    assert "is no short name: take the name of its fp8 version" in err


def test_pull_of_what_does_not_fit(vgate, hub):
    status, _, err = vgate("models", "pull", "qwen3:32b", "--vram", "8")
    assert status == 1
    assert "qwen3:32b does not fit on a GPU (7.8 GiB): its smallest version" in err
    assert "--quantization int4 downloads it all the same" in err
    assert hub.requests == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (".", ". is a directory: there is nothing to download"),
        ("qwen3:7b", "did you mean qwen3:0.6b or"),
        ("qwen3", "Short names: qwen3:0.6b, qwen3:1.7b"),
        ("Qwen/Qwen3-8B-AWK", "has no such model, or shows it to some only"),
        ("Qwen/Qwen3-8B-AWK", "Short names: qwen3:8b"),
        ("https://huggingface.co/Qwen/Qwen3-8B", "is an address: set it to Qwen/Qwen3-8B"),
        ("a/b-GGUF", "has GGUF files, which can't be served"),
        (f"a/{'x' * 300}", "there is no directory a/xxx"),
        ("not a name", "there is no directory not a name"),
    ],
)
def test_pull_of_what_is_no_model(vgate, hub, name, said):
    status, _, err = vgate("models", "pull", name)
    assert status in {1, 2}
    assert said in err
    assert err.startswith("vgate: ")


@pytest.mark.parametrize(
    ("place", "status", "said"),
    [
        ("~nobody-here/x", 0, "0.0 GB in ~nobody-here/x"),
        (f"/{'x' * 300}", 1, "File name too long"),
    ],
)
def test_a_cache_that_can_not_be_read(vgate, monkeypatch, place, status, said):
    monkeypatch.setenv("HF_HUB_CACHE", place)
    found, out, err = vgate("models", "cached")
    assert (found, said in out + err) == (status, True)


@pytest.fixture
def clock(monkeypatch):
    """The time that the progress goes by."""
    now = [0.0]
    monkeypatch.setattr(pull.time, "monotonic", lambda: now[0])

    def pass_(seconds):
        now[0] += seconds

    return pass_


def test_progress_has_bytes_rate_and_time_left(clock, capsys, monkeypatch):
    monkeypatch.setattr(pull, "is_terminal", lambda: True)
    progress = pull._Progress("a/b")
    for done in range(0, 4_000_000_000, 500_000_000):
        progress.report(done, 6_000_000_000)
        clock(5)
    progress.say("asked to wait 7 s")
    progress.report(6_000_000_000, 6_000_000_000)
    progress.end()
    told = capsys.readouterr().out
    assert "a/b: 0.0 of 6.0 GB (0 %)" in told
    assert "a/b: 3.5 of 6.0 GB (58 %), 100.0 MB/s, 25 s left\na/b: asked to wait 7 s\n" in told
    assert told.endswith("a/b: 6.0 GB\n")


def test_progress_without_a_terminal_is_a_line_now_and_then(clock, capsys):
    progress = pull._Progress("a/b")
    for done in range(0, 4_000_000, 500_000):
        progress.report(done, 4_000_000)
        clock(3)
    progress.report(4_000_000, 4_000_000)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "a/b: 2.0 of 4.0 MB (50 %), 0.2 MB/s, 12 s left"
    assert lines[-1] == "a/b: 4.0 MB"
    assert len(lines) == 2


def test_a_gated_model_is_explained(vgate, hub):
    hub.refuse["/api/"] = (401, {"X-Error-Code": "GatedRepo"}, None)
    status, out, err = vgate("models", "pull", "llama3.2:1b", "--quantization", "bf16")
    assert status == 1
    assert "meta-llama/Llama-3.2-1B-Instruct (16 bit, 2.5 GB)" in out
    assert f"Do that at {hub.url}/meta-llama/Llama-3.2-1B-Instruct, then set HF_TOKEN" in err
    assert "Short names" not in err


def test_what_cannot_be_served_is_told_once_it_is_there(vgate, hub):
    del hub.files["tokenizer.json"]
    status, _, err = vgate("models", "pull", AWQ)
    assert status == 1
    assert f"{AWQ} is downloaded, but it can't be served: " in err


def test_the_catalogue_shows_what_fits(vgate, hub):
    _, out, _ = vgate("models", "catalogue", "--vram", "12")
    rows = {line.split()[0]: line for line in out.splitlines() if ":" in line.split("  ")[0]}
    assert AWQ in rows["qwen3:8b"]
    assert re.search(r" 1\d,\d{3}$", rows["qwen3:8b"])
    assert rows["qwen3:32b"].endswith("does not fit")
    assert rows["gemma3:1b"].split()[1].startswith("RedHatAI/")
    assert rows["embeddinggemma:300m"].endswith("licence to accept")
    vgate("models", "pull", AWQ)
    _, out, _ = vgate("models", "catalogue", "--vram", "12", "--fitting", "--json")
    document = json.loads(out)
    models = {one["name"]: one for one in document["models"]}
    assert models["qwen3:8b"]["downloaded"] is True
    assert models["qwen3:8b"]["repository"] == AWQ
    assert models["qwen3:8b"]["bytes"] > 6e9
    assert len(models["qwen3:8b"]["variants"]) == 3
    assert "qwen3:32b" not in models
    assert document["card"]["total"] == int(12 * 0.98 * (1 << 30))


def test_what_is_cached_is_listed_with_its_size(vgate, hub, tmp_path):
    assert "0.0 GB in " in vgate("models", "cached")[1]
    vgate("models", "pull", AWQ)
    left = tmp_path / "home" / "hub" / "models--big--one" / "blobs" / "x.incomplete"
    left.parent.mkdir(parents=True)
    with left.open("wb") as file:
        file.truncate(2_500_000_000)
    _, out, _ = vgate("models", "cached")
    first, second = out.splitlines()[1:3]
    assert re.fullmatch(r"big/one +2.5 GB +2.5 GB unfinished", first)
    assert second.split()[:2] == [AWQ, "qwen3:8b"]
    assert f"2.5 GB in {tmp_path}/home/hub, which has room for " in out
    document = json.loads(vgate("models", "cached", "--json")[1])
    assert [one["name"] for one in document["models"]] == ["big/one", AWQ]
    sizes = sum(map(len, hub.files.values()))
    assert sizes / 2 < document["models"][1]["bytes"] < sizes * 2


def test_a_short_name_can_be_configured(vgate, tmp_path):
    gpu(tmp_path, "NVIDIA GeForce RTX 3060, 12288, 11900, 8.6")
    Path("config.yaml").write_text("model: {model_id: 'qwen3:8b'}")
    status, out, _ = vgate("check")
    assert status == 0
    model = yaml.safe_load(out)["model"]
    assert model["model_id"] == AWQ
    assert model["served_model_name"] == "qwen3:8b"
    status, out, _ = vgate("--model", "qwen3:4b", "check")
    assert yaml.safe_load(out)["model"]["model_id"].startswith("Qwen/Qwen3-4B")


def test_a_short_name_that_does_not_fit_is_no_start(vgate, tmp_path):
    gpu(tmp_path, "NVIDIA GeForce RTX 3060, 12288, 11900, 8.6")
    status, _, err = vgate("--model", "qwen3:32b", "check")
    assert status == 2
    assert err.count("vgate: ") == 1
    assert "model.model_id: qwen3:32b does not fit on NVIDIA GeForce RTX 3060 (12.0 GiB)" in err


def test_fit_takes_short_names(vgate, hub):
    _, out, _ = vgate("fit", "qwen3:8b", "--vram", "12")
    assert out.startswith(f"{AWQ} on ")


def test_the_list_has_its_texts_one_below_the_other(monkeypatch, capsys):
    model = {"load": "resident", "for_s": 5.0, "running": 0, "waiting": 0, "loads": 1, "ahead": 0}
    rows = [
        {**model, "model": "long-name", "status": "loaded", "detail": "it serves a long context"},
        {**model, "model": "m", "status": "unloaded", "detail": "it is idle"},
    ]
    server = SimpleNamespace(objects=lambda _path: rows)
    monkeypatch.setattr(residency, "Server", lambda *_: server)
    residency.LIST.run(None, None)
    head, *lines = capsys.readouterr().out.splitlines()
    at = head.index("DETAIL")
    assert [line[at:] for line in lines] == ["it serves a long context", "it is idle"]
