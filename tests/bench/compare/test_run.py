"""The whole comparison on small loads, and its parts against real servers."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from bench.compare.cli import parse
from bench.compare.clock import Clock
from bench.compare.constant_load import (
    WrongAnswerError,
    constant_load,
    first_answer,
    request_bytes,
)
from bench.compare.contenders import CONTENDERS, Settings, Setup
from bench.compare.contenders.vllm import engine_arguments, environment_of, flags
from bench.compare.load import Load
from bench.compare.models import VOCABULARY, Models
from bench.compare.peers import Peers
from bench.compare.progress import Progress
from bench.compare.results import ScenarioResult
from bench.compare.scenarios.growth import write_conversations
from bench.compare.scenarios.streamed_chat import compiled_chat
from bench.compare.service import Running, Service, UnavailableError
from bench.compare.stage import Plan, Stage, figure
from bench.load.prompts import WORDS


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    work = tmp_path_factory.mktemp("compare")
    peers = Peers(work / "peers", Progress(Clock(60)), may_install=False)
    return Setup(models=Models(work), peers=peers, work=work)


@pytest.fixture(scope="module")
def constant(setup: Setup) -> Iterator[Running]:
    with Running(CONTENDERS["granian"](setup, Settings(body='{"choices":[]}'))) as running:
        yield running


def a_stage(setup: Setup, **plan: object) -> Stage:
    clock = Clock(60)
    stage = Stage(Plan(repetitions=2, **plan), setup, clock, Progress(clock))  # type: ignore[arg-type]
    clock.begin_part(1.0)
    stage.result = ScenarioResult(name="test", title="Test")
    return stage


def test_dry_run_streams_are_measured_by_kind_and_checked(setup: Setup) -> None:
    stage = a_stage(setup)
    settings = Settings(step_ms=2, max_num_seqs=64, workers=1)
    with stage.running("vgate-dry-run", settings=settings) as contenders:
        load = Load(clients=8, requests=16, output_tokens=12, prompt_tokens=20)
        case = stage.case("8 streams", load, contenders, ["output_tokens_per_s"])
        wrong = Load(clients=2, requests=4, output_tokens=5, prompt_tokens=20)
        running = contenders[0]
        running.service = _with_flags(running.service, "--expect-chunks", "99")
        failing = stage.case("wrong", wrong, contenders, [])
    assert case is not None
    assert case.repetitions == 2
    assert case.rows[0].failures == []
    measures = case.rows[0].measures
    assert len(measures["itl_ms.p99"].values) == 2
    for kind in ("launcher", "frontend", "engine"):
        assert measures[f"peak_rss_mib.{kind}"].median > 5
    assert figure(case, "vgate-dry-run", "cpu_us_per_token.frontend") is not None
    assert [start.contender for start in stage.starts] == ["vgate-dry-run"]
    assert {one.kind for one in stage.starts[0].memory} == {"launcher", "frontend", "engine"}
    assert failing is not None
    assert "check_chunks" in failing.rows[0].failures[0]


def _with_flags(service: Service, *more: str) -> Service:
    import msgspec

    return msgspec.structs.replace(service, load_flags=(*service.load_flags, *more))


def test_who_cannot_take_part_is_left_out_with_the_reason(setup: Setup) -> None:
    stage = a_stage(setup)
    with stage.running("litellm", settings=Settings()) as contenders:
        assert contenders == []
        assert stage.case("nobody", Load(clients=1, requests=1), contenders, []) is None
    assert "litellm[proxy] not installed" in stage.skipped["litellm"]
    assert stage.result.notes == [f"litellm is left out: {stage.skipped['litellm']}"]
    with pytest.raises(UnavailableError, match=r"vllm-rs|vLLM"):
        CONTENDERS["vllm-rs"](setup, Settings())


def test_contenders_that_were_not_asked_for_are_not_started(setup: Setup) -> None:
    stage = a_stage(setup, only=("granian",))
    with stage.running("vgate-dry-run", settings=Settings()) as contenders:
        assert contenders == []
    assert stage.skipped == {}


def test_the_constant_load_counts_answers(constant: Running) -> None:
    request = request_bytes(constant.service.port, "/v1/chat/completions", b"{}", None)
    body = first_answer(constant.service.port, request)
    assert body == b'{"choices":[]}'
    result = constant_load(constant.service.port, request, body, clients=3, seconds=0.2)
    assert result.times.count == result.requests > 3
    assert result.seconds >= 0.2


def test_the_constant_load_refuses_another_answer(constant: Running) -> None:
    request = request_bytes(constant.service.port, "/", b"{}", "key")
    with pytest.raises(WrongAnswerError, match="another answer"):
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
    assert flags(given) == [
        *("--max-num-seqs", "4", "--enforce-eager", "--no-enable-prefix-caching"),
        *("--x", '{"a": 1}'),
    ]


def test_what_takes_long_is_run_only_when_asked_for() -> None:
    assert "compiled-chat" not in parse([]).scenarios
    assert "streamed-chat" in parse([]).scenarios
    assert parse(["--scenario", "compiled-chat"]).scenarios == ("compiled-chat",)


def test_compiled_models_are_compiled_for_everybody(setup: Setup) -> None:
    for compiled in (True, False):
        settings = Settings(compiled=compiled)
        assert engine_arguments(setup, settings)["enforce_eager"] is not compiled
        # Compiling is switched off in this variable, which the caller may have set.
        disabled = environment_of(setup, settings)["TORCHDYNAMO_DISABLE"]
        assert disabled == (None if compiled else "1")


def test_compiled_chat_needs_a_compiler(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    clock = Clock(60)
    stage = Stage(Plan(), setup, clock, Progress(clock))
    compiled_chat(stage)
    assert "g++" in stage.result.notes[0]
    assert stage.starts == []


def test_conversations_end_with_the_user_and_differ(tmp_path: Path) -> None:
    path = tmp_path / "conversations.jsonl"
    write_conversations(path, turns=10, count=3, seed=1)
    found = [json.loads(line)["messages"] for line in path.read_text().splitlines()]
    assert [len(messages) for messages in found] == [9, 9, 9]
    assert {messages[-1]["role"] for messages in found} == {"user"}
    assert len({messages[0]["content"] for messages in found}) == 3


@pytest.mark.slow
def test_the_command_writes_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from bench.compare.__main__ import main

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
