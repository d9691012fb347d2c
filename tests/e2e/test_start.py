"""Starting: configuration, ports, crash loops, and what each process loads."""

import json
import os
import shutil
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import httpx
import psutil
import pytest

from tests.e2e.instance import ROOT, Instance, free_port
from tests.e2e.traffic import CHAT, chat
from tests.small_disk import fill, small_disk

TIMEOUT_S = 60
MAX_FRONTEND_MIB = 80
HEAVY = ("torch", "vllm", "transformers", "numpy", "huggingface_hub", "opentelemetry", "openai")


def vgate(*arguments: str, cwd: Path = ROOT, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("VGATE_")}
    environment["PYTHONPATH"] = str(ROOT)
    for key, value in settings.items():
        environment[f"VGATE_{key.upper()}"] = value
    return subprocess.run(
        [sys.executable, "-m", "vgate.launcher", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


BAD_SETTINGS = [
    ("server", "prot", "1", ["`server.prot`", "did you mean `port`"]),
    ("servr", "port", "1", ["`servr`", "did you mean `server`"]),
    ("server", "port", "many", ["`server.port`", "an integer", '"many"']),
    ("server", "port", "70000", ["`server.port`", "<= 65535", "70000"]),
    ("batch", "max_batch_size", "0", ["`batch.max_batch_size`", ">= 1"]),
    ("timeouts", "request_s", "-1", ["`timeouts.request_s`", "> 0"]),
    ("logging", "level", "loud", ["`logging.level`", "loud"]),
    ("security", "enabled", "true", ["security.enabled"]),
]


# The first two are unknown: as variables, they are told and ignored.
BAD_VARIABLES = BAD_SETTINGS[2:]


@pytest.mark.parametrize(("section", "key", "value", "words"), BAD_VARIABLES)
@pytest.mark.parametrize("command", ["check", "serve"])
def test_a_bad_setting_in_the_environment(
    tmp_path: Path, command: str, section: str, key: str, value: str, words: list[str]
):
    variable = f"{section}__{key}"
    result = vgate(command, "--dry-run", cwd=tmp_path, **{variable: value})
    assert result.returncode == 2
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    for word in words:
        assert word in line
    if section != "security":
        assert f"VGATE_{variable.upper()}" in line


@pytest.mark.parametrize(("section", "key", "value", "words"), BAD_SETTINGS)
def test_a_bad_setting_in_the_file(
    tmp_path: Path, section: str, key: str, value: str, words: list[str]
):
    (tmp_path / "config.yaml").write_text(f"{section}:\n  {key}: {value}\n")
    result = vgate("--dry-run", cwd=tmp_path)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    for word in words:
        assert word in line
    if section != "security":
        assert "config.yaml" in line


@pytest.mark.parametrize("text", ["{", "- 1", "a: b: c", "\x00", "server: 5"])
def test_a_file_that_is_not_a_configuration(tmp_path: Path, text: str):
    path = tmp_path / "other.yaml"
    path.write_text(text)
    result = vgate("--dry-run", cwd=tmp_path, config_path=str(path))
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "Traceback" not in result.stderr


def test_a_missing_file(tmp_path: Path):
    result = vgate("--dry-run", config_path=str(tmp_path / "none.yaml"))
    assert result.returncode == 2
    assert "none.yaml" in result.stderr


def test_check_prints_the_effective_configuration_without_secrets(tmp_path: Path):
    keys = [{"key": "sk-very-secret", "name": "me"}]
    result = vgate("check", cwd=tmp_path, security__api_keys=json.dumps(keys), server__port="1234")
    assert result.returncode == 0
    assert "port: 1234" in result.stdout
    assert "sk-very-secret" not in result.stdout + result.stderr
    assert "'********'" in result.stdout


def test_a_port_in_use(run_dirs: Path):
    with socket.socket() as taken:
        # As another server would that shares its port.
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        run_dir = run_dirs / port
        result = vgate("--dry-run", server__port=port, server__run_dir=str(run_dir))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in line
    assert not run_dir.exists()


@pytest.mark.parametrize("host", ["no-such-host.invalid", "203.0.113.7", "not a host"])
def test_a_host_that_is_not_ours(run_dirs: Path, host: str):
    result = vgate("--dry-run", server__host=host, server__port=str(free_port()))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert f"cannot listen on {host}" in line


def test_a_run_directory_that_cannot_be_used(run_dirs: Path):
    taken = run_dirs / "file"
    taken.write_text("")
    long = run_dirs / ("x" * 120)
    for run_dir, words in ((taken, "cannot make the run directory"), (long, "107 bytes")):
        result = vgate("--dry-run", server__run_dir=str(run_dir), server__port=str(free_port()))
        assert result.returncode == 1
        assert words in result.stderr.splitlines()[-1]
        assert "Traceback" not in result.stderr


@pytest.mark.parametrize("mib", [60, 300])
def test_too_little_virtual_memory_ends_the_start(mib: int):
    # Before the launcher's Python is the process: a thread of pytest's could need more.
    limited = f'ulimit -v {mib * 1024}; exec "$@"'
    start = [sys.executable, "-m", "vgate.launcher", "--dry-run", "--port", str(free_port())]
    result = subprocess.run(
        ["/bin/sh", "-c", limited, "sh", *start],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith("vgate: a process may reserve only ")
    assert "(ulimit -v), and V-Gate needs 1.0 GiB" in line


def test_a_full_run_directory_ends_the_start(tmp_path: Path):
    with small_disk(tmp_path / "d", 64) as disk:
        fill(disk)
        run_dir, port = str(disk / "run"), str(free_port())
        result = vgate("--dry-run", server__run_dir=run_dir, server__port=port)
        assert result.returncode == 1
        assert "No space left on device; make room, or set server.run_dir" in result.stderr
        assert "Traceback" not in result.stderr


def test_two_instances_side_by_side(run_dirs: Path):
    with (
        Instance(run_dirs, dry_run=True, server__workers=1) as one,
        Instance(run_dirs, dry_run=True, server__workers=1) as other,
    ):
        for server in (one, other):
            assert httpx.post(server.url + CHAT, json=chat("hi")).status_code == 200
        # A third can't have the run directory of the first.
        settings = {"server__run_dir": str(one.run_dir), "server__port": str(free_port())}
        result = vgate("--dry-run", **settings)
        assert result.returncode == 1
        assert "another V-Gate instance runs in" in result.stderr
        other.process.kill()
        assert httpx.post(one.url + CHAT, json=chat("hi")).status_code == 200


@pytest.mark.parametrize("content", ["{", "[]", '{"added_tokens": 5}'])
def test_a_tokenizer_that_cannot_be_read_ends_the_start(
    run_dirs: Path, tmp_path: Path, tiny_model_dir: Path, content: str
):
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    (model / "tokenizer.json").write_text(content)
    run_dir = run_dirs / "broken"
    result = vgate(
        "--dry-run",
        model__model_id=str(model),
        server__port=str(free_port()),
        server__run_dir=str(run_dir),
    )
    assert result.returncode == 1
    assert str(model) in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
    assert not run_dir.exists()


def test_an_ipv6_host_and_a_host_name(run_dirs: Path):
    for host in ("::1", "localhost"):
        with Instance(run_dirs, dry_run=True, server__workers=1, server__host=host) as server:
            url = f"http://{'[::1]' if ':' in host else host}:{server.port}"
            assert httpx.get(url + "/health").status_code == 200


def test_a_real_tokenizer_answers_the_same(run_dirs: Path, tiny_model_dir: Path):
    with (
        Instance(
            run_dirs,
            dry_run=True,
            server__workers=1,
            model__model_id=str(tiny_model_dir),
            model__served_model_name="tiny",
        ) as server,
        server.client() as client,
    ):
        text = "Hello, 世界 🙂"
        messages = [{"role": "user", "content": text}]
        answer = client.chat.completions.create(model="tiny", messages=messages)
        # Its template writes the role as text, which is part of the last message then.
        assert answer.choices[0].message.content.endswith(text)


def test_a_frontend_is_small(dry_run: Instance):
    for n in range(50):
        assert httpx.post(dry_run.url + CHAT, json=chat(f"hi {n}")).status_code == 200
    for role in ("frontend-1", "frontend-2", "engine"):
        rss_mib = psutil.Process(dry_run.pid_of(role)).memory_info().rss / 2**20
        print(f"\n{role}: {rss_mib:.1f} MiB")
        assert rss_mib <= MAX_FRONTEND_MIB


@pytest.mark.parametrize(
    ("module", "others"),
    [
        ("vgate.frontend.main", ("vgate.engine", "vgate.launcher")),
        ("vgate.frontend.app", ("vgate.engine", "vgate.launcher")),
        ("vgate.launcher.cli", ("vgate.engine", "vgate.frontend")),
        ("vgate.launcher.supervisor", ("vgate.engine", "vgate.frontend")),
        ("vgate.engine.main", ("vgate.frontend", "vgate.launcher")),
    ],
)
def test_a_program_loads_no_heavy_package_and_no_other_program(
    module: str, others: tuple[str, ...]
):
    code = f"import json, sys, {module}; print(json.dumps(list(sys.modules)))"
    loaded = json.loads(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT))
    unwanted = (*HEAVY, *others)
    assert module in loaded
    assert [m for m in loaded if m.startswith(tuple(f"{u}." for u in unwanted))] == []
    assert [m for m in loaded if m in unwanted] == []


def test_a_frontend_loads_nothing_before_it_is_needed():
    """What only some servers need costs each frontend no memory and no time at its start."""
    code = """
import json, os, sys
before = set(sys.modules)
from vgate.frontend.__main__ import main
numbers = ["--parent", str(os.getppid()), "--worker", "1", "--listener", "0"]
sys.argv[1:] = ["--run-dir", "/no/such/directory", *numbers]
try:
    main()
except FileNotFoundError:
    import vgate.frontend.app
print(json.dumps(list(set(sys.modules) - before)))
"""
    loaded = set(json.loads(subprocess.check_output([sys.executable, "-c", code], cwd=ROOT)))
    assert "vgate.frontend.main" in loaded
    assert loaded.isdisjoint(
        # Stored responses, the ledger, chat templates, a shared server, traces.
        {"sqlite3", "jinja2", "redis", "zstandard", "opentelemetry", "grpc"}
        # The launcher's command line and files.
        | {"argparse", "yaml", "zmq.asyncio"}
    )


def test_a_broken_tokenizer_ends_the_start_with_the_cause(tmp_path, run_dirs):
    (tmp_path / "tokenizer.json").write_text('{"added_tokens": [{"id": 1, "special": true}]}')
    instance = Instance(run_dirs, dry_run=True, model__model_id=str(tmp_path)).launch()
    try:
        assert instance.process is not None
        assert instance.process.wait(30) == 1
        assert "tokenizer.json" in instance.logs()
    finally:
        instance.discard()


def start_with_vllm(run_dirs: Path, model: Path, status: int) -> str:
    """Start with the real engine, which can't serve a model; return the launcher's last line."""
    run_dir = run_dirs / "hopeless"
    result = vgate(
        model__model_id=str(model),
        server__port=str(free_port()),
        server__run_dir=str(run_dir),
        server__workers="1",
    )
    assert result.returncode == status
    assert "Traceback" not in result.stderr
    # It was not tried again.
    assert "process died" not in result.stderr
    assert result.stderr.count("importing vLLM") <= 1
    assert not run_dir.exists()
    return result.stderr.splitlines()[-1]


def test_a_model_that_cannot_be_served_ends_the_start_at_once(
    run_dirs: Path, tmp_path: Path, tiny_model_dir: Path
):
    line = start_with_vllm(run_dirs, tmp_path, 2)
    assert line.startswith(f"vgate: model.model_id: {tmp_path} holds no")
    model = Path(shutil.copytree(tiny_model_dir, tmp_path / "model"))
    with (model / "model.safetensors").open("rb+") as file:
        file.truncate(10_000)
    line = start_with_vllm(run_dirs, model, 2)
    assert f"{model}/model.safetensors is not whole, it has 10000 of" in line


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vLLM is installed here")
def test_an_environment_without_vllm_ends_the_start_at_once(run_dirs: Path, tiny_model_dir: Path):
    line = start_with_vllm(run_dirs, tiny_model_dir, 1)
    assert "vLLM can't be imported here" in line
    assert "start with bin/vgate, which installs it" in line


def test_json_is_all_that_is_written_if_it_cannot_start(run_dirs: Path):
    settings = {"server__host": "203.0.113.7", "server__port": str(free_port())}
    result = vgate("--dry-run", logging__json_format="true", **settings)
    assert result.returncode == 1
    (line,) = [json.loads(line) for line in (result.stdout + result.stderr).splitlines()]
    assert line["event"] == "giving up"
    assert "cannot listen on 203.0.113.7" in line["cause"]
