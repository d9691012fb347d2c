"""The server that all clients share, what the documentation says about each, and how one is run."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.clients.installing import CLONE, JAVASCRIPT, environment_of
from tests.e2e.instance import Instance
from tests.tiny_model.scripted import make_scripted_model

HERE = Path(__file__).parent
DOCUMENT = CLONE / "docs" / "clients.md"
DOCUMENTED_URL = "http://127.0.0.1:8000"
TIMEOUT_S = 100
KEY = "sk-of-the-clients"
NOTE = "the secret is swordfish\n"
# Nobody listens there. A client that tries to reach another machine fails at once, as opencode,
# which asks npm for its plugin package and has no setting against it.
NOWHERE = "http://127.0.0.1:9"
QUIET = {
    **dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), NOWHERE),
    **dict.fromkeys(("NO_PROXY", "no_proxy"), "127.0.0.1,localhost"),
    **dict.fromkeys(("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "DO_NOT_TRACK"), "1"),
}


class Client:
    """Runs programs for one test: in a home and a directory of their own, with a clean environment.

    Attributes:
        url: V-Gate's address, without a path.
        home, directory: Empty at first.
        environ: What the programs find in their environment; a test may add to it.
    """

    def __init__(self, url: str, path: Path) -> None:
        self.url = url
        self.home, self.directory = path / "home", path / "work"
        self.home.mkdir()
        self.directory.mkdir()
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.home),
            "LANG": "C.UTF-8",
            **QUIET,
        }

    def documented(self, title: str, number: int = 0) -> str:
        """Return a code block of a section of docs/clients.md, for this server."""
        text = DOCUMENT.read_text()
        section = re.search(
            rf"^### {re.escape(title)}\n(.*?)(?=^#|\Z)", text, re.DOTALL | re.MULTILINE
        )
        assert section, f"{DOCUMENT} has no section {title}"
        blocks = re.findall(r"^```\w+\n(.*?)^```", section[1], re.DOTALL | re.MULTILINE)
        block: str = blocks[number]
        assert DOCUMENTED_URL in block
        return block.replace(DOCUMENTED_URL, self.url)

    def export(self, block: str) -> None:
        """Set the variables of a block of `export NAME=VALUE`."""
        found = re.findall(r"(\w+)=(\S+)", block)
        assert found
        self.environ.update(found)

    def write(self, path: Path, text: str) -> Path:
        """Write a file and the directories above it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def run(self, *command: str | Path) -> str:
        """Run a program to its successful end; return its output."""
        done = subprocess.run(
            command,
            cwd=self.directory,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
        )
        output = done.stdout.decode(errors="replace")
        assert done.returncode == 0, f"{command} ended with {done.returncode}:\n{output[-6000:]}"
        return output


# A simulated engine with room for the prompts of agents. A token of the dry run is a byte.
ROOMY: dict[str, Any] = {
    "dry_run": True,
    "server__workers": 1,
    "model__model_id": "built-in",
    "model__served_model_name": "my-model",
    "model__max_model_len": 400_000,
    "dry_run__step_ms": 0.2,
    "dry_run__prefill_tokens_per_s": 100_000_000,
    "dry_run__kv_cache_tokens": 10_000_000,
}


@pytest.fixture(scope="session")
def gateway(run_dirs: Path) -> Iterator[Instance]:
    """A dry-run instance with the script, and room for the prompts of agents."""
    with Instance(
        run_dirs,
        **ROOMY,
        dry_run__script=str(HERE / "script.yaml"),
        additional_models=[
            {"model_id": "built-in-2", "task": "embed", "served_model_name": "my-embedder"}
        ],
    ) as instance:
        yield instance
        assert instance.has_problem() is None


@pytest.fixture(scope="session")
def keyed_gateway(run_dirs: Path) -> Iterator[Instance]:
    """One that answers to `KEY` alone, and repeats what it is told."""
    with Instance(
        run_dirs,
        **ROOMY,
        security__enabled=True,
        security__api_keys=[{"name": "client", "key": KEY}],
    ) as instance:
        yield instance


@pytest.fixture(scope="session")
def vllm_gateway(run_dirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """The real engine with a model that says to the agents what the script says."""
    script = yaml.safe_load((HERE / "agents.yaml").read_text())
    # Claude Code asks for an answer of up to 32,000 tokens.
    model = make_scripted_model(tmp_path_factory.mktemp("scripted"), script, context=131_072)
    with Instance(
        run_dirs,
        dry_run=False,
        server__workers=1,
        model__model_id=str(model),
        model__served_model_name="my-model",
        model__dtype="float32",
        model__max_model_len=131_072,
    ) as instance:
        yield instance
        assert instance.has_problem() is None


# For a program that must get through its conversation with the real engine, too.
ON_BOTH_ENGINES = pytest.mark.parametrize(
    "client",
    ["gateway", pytest.param("vllm_gateway", marks=[pytest.mark.vllm, pytest.mark.timeout(330)])],
    indirect=True,
)


@pytest.fixture
def client(request: pytest.FixtureRequest, tmp_path: Path) -> Client:
    """A client of the dry-run instance, unless the test names another one."""
    gateway: Instance = request.getfixturevalue(getattr(request, "param", "gateway"))
    return Client(gateway.url, tmp_path)


@pytest.fixture
def note(client: Client) -> Path:
    """A file that the agents are asked to read; their command leaves a copy in seen.txt."""
    return client.write(client.directory / "note.txt", NOTE)


@pytest.fixture(scope="session")
def python_program() -> Callable[..., Path]:
    """A function that returns a command of a Python program's environment."""

    def find(program: str, command: str = "python") -> Path:
        environment = environment_of(program)
        if not environment.is_current():
            pytest.skip(f"{program} is not installed: run bin/test --clients")
        return Path(environment.directory) / "bin" / command

    return find


@pytest.fixture(scope="session")
def npm_program() -> Callable[[str], Path]:
    """A function that returns a command from npm."""

    def find(command: str) -> Path:
        path = JAVASCRIPT / "node_modules" / ".bin" / command
        if not path.exists() or shutil.which("node") is None:
            pytest.skip(f"{command} is not installed: run bin/test --clients")
        return path

    return find
