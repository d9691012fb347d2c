"""What a start shows: on a terminal, in a service's log, and as JSON."""

import io
import json
import re
import shlex
import subprocess
import sys

import msgspec
import pytest

from tests.launcher.screen import Terminal, screen_of
from vgate.config import Config, Runtime, tls
from vgate.config.model import AdditionalModel, Model
from vgate.config.runtime import EngineSpec
from vgate.config.schema import Logging, Security, Server, Tls
from vgate.launcher.output import Output
from vgate.launcher.terminal import card, phases
from vgate.launcher.terminal import console as module
from vgate.launcher.terminal.console import Console
from vgate.launcher.terminal.phases import download_text
from vgate.wire.control import EngineReady

READY = EngineReady(1, "", max_model_len=2048, kv_cache_tokens=81_920)
GB = 10**9


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def xterm(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.delenv("NO_COLOR", raising=False)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    for one in (module, phases):
        monkeypatch.setattr(one.time, "monotonic", lambda: now[0])

    def advance(seconds):
        now[0] += seconds

    return advance


def make(out, backend="vllm", log_file="", **sections):
    config = Config(**{"model": Model(model_id="some/model"), **sections})
    engines = [EngineSpec(model=model.name, address="ipc://x") for model in config.all_models]
    runtime = Runtime(
        config=config, backend=backend, run_dir="/run", engines=engines, log_file=log_file
    )
    return Console(runtime, out)


def command_of(text: str) -> list[str]:
    """Return the words of the command that a card shows, as the shell takes them."""
    return shlex.split(text[text.index("curl ") :].partition("\n\n")[0])


def test_without_a_terminal_each_phase_is_a_dated_line(clock):
    out = io.StringIO()
    console = make(out)
    console.starting()
    for phase in ("importing vLLM", "loading weights", "loading weights", "warming up"):
        console.phase(0, phase)
        clock(1.5)
        console.tick()
    console.engine_ready(0, READY)
    console.serving()
    lines = out.getvalue().splitlines()
    dated = [re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (.+)", line) for line in lines]
    assert all(dated), lines
    texts = [line[1] for line in dated]
    assert "some/model" in texts[0]
    assert texts[1:4] == ["importing vLLM", "loading weights", "warming up"]
    assert texts[4].startswith("V-Gate is ready on http://127.0.0.1:8000 after 6.0 s")
    assert texts[-1].startswith("Try    curl http://127.0.0.1:8000/v1/chat/completions -H")
    assert "\x1b" not in out.getvalue()


def test_a_download_without_a_terminal_is_a_line_a_minute(clock):
    out = io.StringIO()
    console = make(out)
    console.phase(0, "fetching some/model")
    for second in range(1, 131):
        clock(1)
        console.phase(0, "fetching some/model", second * GB // 10, 20 * GB)
    texts = [line[20:] for line in out.getvalue().splitlines()]
    assert len(texts) == 3
    assert texts[1].startswith("fetching some/model: 6.0 of 20.0 GB (30 %), 100.0 MB/s, 2 min left")


def test_a_terminal_shows_the_phases_in_place_and_then_a_card(clock):
    out = Screen()
    console = make(out, log_file="/state/logs/vgate-8000.log")
    console.starting()
    console.phase(0, "importing vLLM")
    for _ in range(50):
        clock(0.1)
        console.tick()
    console.phase(0, "loading weights")
    clock(3)
    console.tick()
    live = screen_of(out.getvalue())
    assert re.fullmatch(r"✓ importing vLLM +5 s *", live[1])
    assert re.fullmatch(r". loading weights +3 s *", live[2])
    console.show("2026-11-30 12:00:00.000 WARNING launcher  something")
    above = screen_of(out.getvalue())
    assert above[1] == "2026-11-30 12:00:00.000 WARNING launcher  something"
    assert "importing vLLM" in above[2]
    console.engine_ready(0, READY)
    console.serving()
    left = [line.rstrip() for line in screen_of(out.getvalue())]
    assert left[2].startswith("V-Gate is ready on http://127.0.0.1:8000 after 8.0 s")
    assert "(importing vLLM 5.0 s, loading weights 3.0 s)" in left[2]
    assert "  URL    http://127.0.0.1:8000/v1" in left
    assert "  Page   http://127.0.0.1:8000/" in left
    assert "  Model  some/model: context 2,048 tokens, KV cache 81,920 tokens" in left
    assert "  Log    /state/logs/vgate-8000.log" in left
    assert not any("✓" in line for line in left)
    assert len([line for line in left if line]) <= 12


def test_the_card_says_what_was_chosen_and_why(clock):
    out = Screen()
    console = make(out)
    console.engine_ready(
        0, msgspec.structs.replace(READY, chosen="up to 48 answers at once, 85% of the GPU")
    )
    console.serving()
    left = [line.rstrip() for line in screen_of(out.getvalue())]
    at = left.index("  Model  some/model: context 2,048 tokens, KV cache 81,920 tokens")
    assert left[at + 1] == "         up to 48 answers at once, 85% of the GPU"


def test_the_card_lists_models_on_demand(clock):
    out = io.StringIO()
    main = Model(model_id="some/model")
    other = AdditionalModel(model_id="b", served_model_name=["b", "c"], task="generate")
    other = msgspec.structs.replace(other, load="on_demand")
    console = make(out, model=main, models=[other])
    console.engine_ready(0, READY)
    console.serving()
    assert "Model  some/model: context 2,048 tokens" in out.getvalue()
    assert "Model  b, c: on demand" in out.getvalue()


def test_a_download_on_a_terminal_shows_bytes_speed_and_the_time_left(clock):
    out = Screen()
    console = make(out)
    console.phase(0, "fetching some/model")
    for second in range(1, 11):
        clock(1)
        console.phase(0, "fetching some/model", second * GB // 10, 4 * GB)
    (line,) = [line for line in screen_of(out.getvalue()) if "fetching" in line]
    assert "10 s, 1.0 of 4.0 GB (25 %), 100.0 MB/s, 30 s left" in line


@pytest.mark.parametrize(
    ("done", "speed", "text"),
    [
        (0, None, "0.0 of 40.0 GB (0 %)"),
        (10 * GB, 2e6, "10.0 of 40.0 GB (25 %), 2.0 MB/s, 4 h left"),
        (39 * GB, 50e6, "39.0 of 40.0 GB (97 %), 50.0 MB/s, 20 s left"),
        (40 * GB, 50e6, "40.0 GB"),
    ],
)
def test_how_far_a_download_is(done, speed, text):
    assert download_text(done, 40 * GB, speed) == text


def test_an_engine_that_dies_while_it_loads_begins_again(clock):
    for out in (Screen(), io.StringIO()):
        console = make(out)
        console.phase(0, "importing vLLM")
        clock(5)
        console.phase(0, "loading weights")
        console.drop(0)
        if out.isatty():
            assert "loading weights" not in "".join(screen_of(out.getvalue()))
        console.phase(0, "importing vLLM")
        clock(2)
        console.phase(0, "loading weights")
        clock(1)
        console.engine_ready(0, READY)
        console.serving()
        assert "(importing vLLM 7.0 s, loading weights 1.0 s)" in out.getvalue()
        assert out.isatty() or out.getvalue().count("importing vLLM\n") == 2


def test_several_engines_load_at_once(clock):
    out = Screen()
    embedder, reranker = AdditionalModel(model_id="minilm"), AdditionalModel(model_id="bge")
    console = make(out, additional_models=[embedder, reranker])
    console.phase(0, "loading weights")
    console.phase(1, "importing vLLM")
    clock(2)
    console.tick()
    live = screen_of(out.getvalue())
    assert [line.split("  ")[0][2:] for line in live[:2]] == [
        "some/model: loading weights",
        "minilm: importing vLLM",
    ]
    for engine, task in enumerate(("generate", "embed", "classify")):
        console.engine_ready(engine, msgspec.structs.replace(READY, task=task))
    console.serving()
    lines = out.getvalue().splitlines()
    assert "  Model  minilm: embeddings, context 2,048 tokens" in lines
    assert "  Model  bge: classes or scores, context 2,048 tokens" in lines


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_real_terminal(term, monkeypatch):
    monkeypatch.setenv("TERM", term)
    with Terminal() as terminal:
        output = Output(terminal.fd)
        console = make(output)
        console.phase(0, "loading weights")
        console.tick()
        console.engine_ready(0, READY)
        console.serving()
        assert output.wait_written(30)
        terminal.close()
    assert ("\x1b[" in terminal.written) == (term == "xterm")
    assert any("V-Gate is ready" in line for line in terminal.screen())


def test_json_has_the_phases_as_events(clock, caplog):
    out = io.StringIO()
    console = make(out, logging=Logging(json_format=True))
    with caplog.at_level("INFO"):
        console.starting()
        console.phase(0, "x")
        console.phase(0, "x", 5, 10)
        clock(10)
        console.tick()
        console.engine_ready(0, READY)
        console.serving()
        console.show("z")
    assert out.getvalue() == ""
    assert [record.message for record in caplog.records] == ["engine starting"]


def test_the_dry_run_engine_is_named(clock):
    out = io.StringIO()
    make(out, backend="dry_run").starting()
    assert "dry-run engine" in out.getvalue()
    assert "some/model" not in out.getvalue()


def test_without_standard_output_nothing_is_shown(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)
    console = make(None)
    console.starting()
    console.phase(0, "x")
    console.engine_ready(0, READY)
    console.serving()


class TestTry:
    def command(self, ready=READY, **sections):
        out = Screen()
        console = make(out, **sections)
        console.engine_ready(0, ready)
        console.serving()
        return out.getvalue(), command_of(out.getvalue())

    def test_a_chat_model(self):
        _, words = self.command(model=Model(served_model_name=["alias", "other"]))
        assert words[:2] == ["curl", "http://127.0.0.1:8000/v1/chat/completions"]
        body = json.loads(words[words.index("-d") + 1])
        assert body["model"] == "alias"
        assert body["messages"]

    def test_a_model_without_a_chat_template_completes(self):
        _, words = self.command(EngineReady(1, "", chat=False))
        assert words[1].endswith("/v1/completions")
        assert json.loads(words[-1])["prompt"]

    def test_a_pooling_model_embeds(self):
        ready = EngineReady(1, "", task="embed")
        _, words = self.command(ready, model=Model(model_id="it's/minilm"))
        assert words[1].endswith("/v1/embeddings")
        assert json.loads(words[-1]) == {"model": "it's/minilm", "input": "Hello!"}

    def test_a_model_that_classifies(self):
        _, words = self.command(EngineReady(1, "", task="classify"), model=Model(model_id="judge"))
        assert words[1].endswith("/v1/classify")
        assert json.loads(words[-1]) == {"model": "judge", "input": "Hello!"}

    def test_keys_have_a_place_and_are_never_shown(self):
        keys = [{"name": "a", "key": "sk-secret"}]
        text, _ = self.command(security=Security(enabled=True, api_keys=keys))
        assert '-H "Authorization: Bearer $VGATE_API_KEY"' in text
        assert "sk-secret" not in text

    @pytest.mark.parametrize(
        ("trusted", "client_ca", "options"),
        [
            (True, None, []),
            (False, None, ["-k"]),
            (False, "ca.pem", ["-k", "--cert", "CERTIFICATE", "--key", "KEY"]),
        ],
    )
    def test_https(self, monkeypatch, trusted, client_ca, options):
        asked = []
        monkeypatch.setattr(tls, "is_trusted", lambda _tls, host: asked.append(host) or trusted)
        files = Tls(certificate="cert.pem", key="key.pem", client_ca=client_ca)
        _, words = self.command(server=Server(host="::1", tls=files))
        assert words[: len(options) + 2] == [
            "curl",
            *options,
            "https://[::1]:8000/v1/chat/completions",
        ]
        assert asked == ["::1"]


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("127.0.0.1", "http://127.0.0.1:8000"),
        ("0.0.0.0", "http://192.168.1.5:8000"),
        ("::", "http://192.168.1.5:8000"),
        ("::1", "http://[::1]:8000"),
        ("10.0.0.7", "http://10.0.0.7:8000"),
        ("example.org", "http://example.org:8000"),
    ],
)
def test_the_url_is_that_of_other_machines_if_they_may_come(monkeypatch, host, url):
    class Probe:
        def __init__(self, *_):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def connect(self, _address):
            pass

        def getsockname(self):
            return ("192.168.1.5", 40_000)

    monkeypatch.setattr(card.socket, "socket", Probe)
    assert make(io.StringIO(), server=Server(host=host)).url == url


@pytest.mark.parametrize(("host", "url"), [("0.0.0.0", "127.0.0.1"), ("::", "[::1]")])
def test_without_a_network_the_url_is_local(monkeypatch, host, url):
    def fail(*_):
        raise OSError

    monkeypatch.setattr(card.socket, "socket", fail)
    assert make(io.StringIO(), server=Server(host=host)).url == f"http://{url}:8000"


def test_ticking_without_a_phase_shows_nothing(clock):
    for out in (io.StringIO(), Screen()):
        make(out).tick()
        assert out.getvalue() == ""


def test_rich_is_loaded_by_a_terminal_only():
    code = "import sys, vgate.frontend.main, vgate.engine.main; print('rich' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "False\n"


def test_a_small_download_is_in_megabytes():
    assert (
        download_text(30 * 10**6, 90 * 10**6, 1e6) == "30.0 of 90.0 MB (33 %), 1.0 MB/s, 60 s left"
    )
