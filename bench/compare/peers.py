"""The environment of the servers that V-Gate does not depend on: FastAPI and LiteLLM."""

import subprocess
import sys
import venv
from pathlib import Path

from bench.compare.service import UnavailableError

PEERS = {"fastapi": ["fastapi", "uvicorn[standard]", "pydantic"], "litellm": ["litellm[proxy]"]}
_INSTALL_TIMEOUT_S = 600


def python_with(peer: str, environment: Path) -> Path:
    """Return the environment's interpreter.

    Raises:
        UnavailableError: The peer is not installed in it.
    """
    if peer_version(peer, environment) is None:
        raise UnavailableError(f"{' '.join(PEERS[peer])} not installed in {environment}")
    return environment / "bin" / "python"


def peer_version(peer: str, environment: Path) -> str | None:
    """Return a peer's installed version, or None."""
    found = list(environment.glob(f"lib/python*/site-packages/{peer}-*.dist-info"))
    return found[0].name.removesuffix(".dist-info").rpartition("-")[2] if found else None


def install(peer: str, environment: Path) -> None:
    """Install a peer, unless it is installed; on failure only say so on stderr."""
    if peer_version(peer, environment) is not None:
        return
    python = environment / "bin" / "python"
    print(f"installing {' '.join(PEERS[peer])} into {environment}", file=sys.stderr, flush=True)
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", *PEERS[peer]]
    try:
        if not python.exists():
            venv.create(environment, with_pip=True)
        # pip's output goes to the terminal, since an installation takes minutes.
        subprocess.run(command, check=True, timeout=_INSTALL_TIMEOUT_S, stdout=sys.stderr.fileno())
    except (subprocess.SubprocessError, OSError) as error:
        print(f"cannot install {peer}: {error}", file=sys.stderr, flush=True)
