"""The whole comparison on small loads, and its parts against real servers."""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tokenizers import Tokenizer

from bench.compare.__main__ import main, parse
from bench.compare.constant_load import (
    WrongAnswerError,
    constant_load,
    first_answer,
    request_bytes,
)
from bench.compare.contenders import build, command_line, engine_arguments, engine_environment
from bench.compare.models import VOCABULARY, Models
from bench.compare.run import Run
from bench.compare.scenarios.chat import compiled_chat
from bench.compare.scenarios.growth import write_conversations
from bench.compare.service import ROOT, Running, UnavailableError
from bench.compare.settings import Settings, Setup
from bench.compare.turn import Load, Sample
from bench.load.prompts import WORDS


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    work = tmp_path_factory.mktemp("compare")
    return Setup(models=Models(work), work=work, peers=work / "peers")


@pytest.fixture(scope="module")
def constant(setup: Setup) -> Iterator[Running]:
    with Running(build("granian", setup, Settings(body='{"choices":[]}'))) as running:
        yield running


def a_run(setup: Setup, **options: Any) -> Run:
    run = Run(setup, repetitions=2, total_s=60, **options)
    run.begin("test", "Test")
    return run


def test_dry_run_streams_are_measured_by_kind_and_checked(setup: Setup) -> None:
    run = a_run(setup)
    settings = Settings(step_ms=2, max_num_seqs=64, workers=1)
    with run.running("vgate-dry-run", settings=settings) as contenders:
        load = Load(clients=8, requests=16, max_tokens=12, prompt_tokens=20)
        case = run.case("8 streams", load, contenders, ["output_tokens_per_s"])
        wrong = Load(clients=2, requests=4, max_tokens=5, prompt_tokens=20)
        running = contenders[0]
        flags = (*running.service.load_flags, "--expect-chunks", "99")
        running.service = msgspec.structs.replace(running.service, load_flags=flags)
        failing = run.case("wrong", wrong, contenders, [])
    assert case.repetitions == 2
    assert case.rows[0].failures == []
    measures = case.rows[0].measures
    assert len(measures["itl_ms.p99"].values) == 2
    for kind in ("launcher", "frontend", "engine"):
        assert measures[f"peak_rss_mib.{kind}"].median > 5
    assert case.figure("vgate-dry-run", "cpu_us_per_token.frontend") is not None
    assert list(run.starts) == ["vgate-dry-run"]
    (start,) = run.starts["vgate-dry-run"]
    assert start["start_s"] > 0
    assert {f"rss_mib.{kind}" for kind in ("launcher", "frontend", "engine")} < set(start)
    assert "check_chunks" in failing.rows[0].failures[0]


def test_who_cannot_take_part_is_left_out_with_the_reason(setup: Setup) -> None:
    run = a_run(setup)
    with run.running("litellm", settings=Settings()) as contenders:
        assert contenders == []
        assert run.case("nobody", Load(clients=1, requests=1), contenders, []).rows == []
    assert "litellm[proxy] not installed" in run.comparison.skipped["litellm"]
    assert run.result.notes == [f"litellm is left out: {run.comparison.skipped['litellm']}"]
    with pytest.raises(UnavailableError, match=r"vllm-rs|vLLM"):
        build("vllm-rs", setup, Settings())


def test_contenders_that_were_not_asked_for_are_not_started(setup: Setup) -> None:
    run = a_run(setup, only=("granian",))
    with run.running("vgate-dry-run", settings=Settings()) as contenders:
        assert contenders == []
    assert run.comparison.skipped == {}


def test_another_checkout_takes_turns_with_this_one(setup: Setup, tmp_path: Path) -> None:
    # A link to this checkout: the same code, in another directory.
    before = tmp_path / "before"
    before.symlink_to(ROOT)
    run = a_run(msgspec.structs.replace(setup, before=before), only=("vgate-dry-run",))
    turns = []

    def turn(running: Running) -> Sample:
        pid = dict(running.processes)["launcher"]
        turns.append((running.name, running.service.cwd, Path(f"/proc/{pid}/cwd").resolve()))
        return Sample({"x": float(len(turns))}, [])

    with run.running("vgate-dry-run", "granian", settings=Settings(workers=1)) as contenders:
        case = run.case("case", Load(clients=1, requests=1), contenders, ["x"], turn)
    one, other = ("vgate-dry-run", ROOT), ("vgate-dry-run-before", before)
    assert [(name, cwd) for name, cwd, _ in turns] == [one, other, other, one]
    assert {cwd for _, _, cwd in turns} == {ROOT}
    assert case.rows[1].ratios["x"].values == [0.5, 1.3333]


def test_a_directory_without_a_checkout_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        parse(["--before", str(tmp_path)])
    assert "not a checkout" in capsys.readouterr().err


def test_a_scenario_repeats_only_within_its_share_of_the_time(
    constant: Running, setup: Setup
) -> None:
    run = a_run(setup)
    load = Load(clients=1, requests=1)

    def turn(_running: Running) -> Sample:
        return Sample({"x": 1.0}, [])

    assert run.case("whole", load, [constant], [], turn).repetitions == 2
    run.begin("late", "Late", share=0.0)
    assert run.case("cut", load, [constant], [], turn).repetitions == 1
    assert run.result.notes == ["cut: 1 of 2 repetitions in time"]


def test_the_constant_load_counts_answers(constant: Running) -> None:
    request = request_bytes(constant.service.port, "/v1/chat/completions", b"{}", None)
    body = first_answer(constant.service.port, request)
    assert body == b'{"choices":[]}'
    times, took_s = constant_load(constant.service.port, request, body, clients=3, seconds=0.2)
    assert times.count > 3
    assert took_s >= 0.2


def test_the_constant_load_refuses_another_answer(constant: Running) -> None:
    request = request_bytes(constant.service.port, "/", b"{}", "key")
    with pytest.raises(WrongAnswerError, match="a different answer"):
        constant_load(constant.service.port, request, b"[1]}", clients=1, seconds=0.1)


def test_the_large_vocabulary_is_whole_and_has_every_word(setup: Setup) -> None:
    directory = setup.models.large_vocabulary()
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    document = json.loads((directory / "tokenizer.json").read_bytes())
    assert tokenizer.get_vocab_size() == VOCABULARY
    assert sorted(document["model"]["vocab"].values()) == list(range(VOCABULARY))
    for token in document["added_tokens"]:
        assert tokenizer.token_to_id(token["content"]) == token["id"]
    assert {len(tokenizer.encode(f" {word}").ids) for word in WORDS} == {1}
    text = "The train (№ 12) — naïve? 数学 🚂\n"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_flags_are_a_command_line() -> None:
    given = {
        "max_num_seqs": 4,
        "enforce_eager": True,
        "enable_prefix_caching": False,
        "x": {"a": 1},
    }
    assert command_line(given) == [
        *("--max-num-seqs", "4", "--enforce-eager", "--no-enable-prefix-caching"),
        *("--x", '{"a": 1}'),
    ]


def test_what_takes_long_is_run_only_when_asked_for() -> None:
    assert "compiled-chat" not in parse([]).scenario
    assert "streamed-chat" in parse([]).scenario
    assert parse(["--scenario", "compiled-chat"]).scenario == ("compiled-chat",)


def test_compiled_models_are_compiled_for_everybody(setup: Setup) -> None:
    for compiled in (True, False):
        settings = Settings(compiled=compiled)
        assert engine_arguments(setup, settings)["enforce_eager"] is not compiled
        # Compiling is switched off in this variable, which the caller may have set.
        disabled = engine_environment(setup, settings)["TORCHDYNAMO_DISABLE"]
        assert disabled == (None if compiled else "1")


def test_compiled_chat_needs_a_compiler(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    run = a_run(setup)
    compiled_chat(run)
    assert "g++" in run.result.notes[0]
    assert run.starts == {}


def test_conversations_end_with_the_user_and_differ(tmp_path: Path) -> None:
    path = tmp_path / "conversations.jsonl"
    write_conversations(path, turns=10, count=3, seed=1)
    found = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    assert [len(messages) for messages in found] == [9, 9, 9]
    assert {messages[-1]["role"] for messages in found} == {"user"}
    assert len({messages[0]["content"] for messages in found}) == 3


@pytest.mark.slow
def test_the_command_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    status = main(
        [
            *("--quick", "--scenario", "first-byte", "--contender", "vgate-dry-run"),
            *("--out", str(out), "--no-install", "--peers", str(tmp_path / "peers")),
        ]
    )
    assert status == 0, capsys.readouterr().err
    written = json.loads(out.read_text())
    row = written["scenarios"][0]["cases"][0]["rows"][0]
    assert row["contender"] == "vgate-dry-run"
    assert row["measures"]["ttft_ms.p50"]["median"] > 0
    assert written["host"]["cpus"] == os.cpu_count()
    assert written["versions"]["python"] == sys.version.split()[0]
    assert "### 1 client (1 repetition)" in out.with_suffix(".md").read_text()
    assert "starting vgate-dry-run" in capsys.readouterr().err
