"""Runs programs that hold a vLLM engine, each in a process of its own, which can hold only one."""

import os
import subprocess
import sys

from tests.e2e.instance import ROOT

PROGRAM_TIMEOUT_S = 300
# For programs that use vLLM by themselves.
OFFLINE = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_HOST_IP": "127.0.0.1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    # One thread: two of them sometimes wait for each other most of the time on small machines.
    "OMP_NUM_THREADS": "1",
    # Some kernels compile themselves on first use, also in eager mode, and need a C++ compiler.
    "TORCHDYNAMO_DISABLE": "1",
}


def run_program(module: str, *arguments: str, **variables: str) -> None:
    """Run a module with environment variables; fail with the end of its output if it does."""
    environment = {**os.environ, **variables}
    # vLLM's import is slow without its compiled files.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    finished = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PROGRAM_TIMEOUT_S,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout[-5000:]
