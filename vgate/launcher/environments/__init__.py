"""Makes the Python environment that a start from a clone needs, and starts the launcher in it.

`bin/vgate` and `bin/test` import this before anything is installed, so it needs only the standard
library and Python 3.8. If the environment is up to date, a start reads a few small files and runs
no subprocess. Environments are in `.venv/` of the clone:

    light        for dry runs, `check`, `keys`, `--help` and `--version`
    vllm-cuda    vLLM for NVIDIA GPUs
    vllm-cpu     vLLM for the CPU (CPython 3.11, Linux, x86-64)
    test-X.Y     for the tests and linters on Python X.Y
    uv           the uv that makes them, if there is none on PATH

The package itself is not installed: it runs from the clone, so new code needs no new environment.
"""
