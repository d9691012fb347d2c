"""`python -m bench.fill`: whether this device holds what the configuration promises.

Loads the configured model (`VGATE_...`, `config.yaml`) without a server, fills it as an engine does
before it is ready, and prints the memory of the GPUs and of the process before and after. Exit
status 1 if it ran out of memory.
"""

import argparse
import os
import resource
import time
from collections.abc import Sequence

from vgate.config import load
from vgate.config.runtime import VLLM
from vgate.engine.backends import load_backend
from vgate.engine.backends.base import Backend
from vgate.engine.fill.filling import Filling
from vgate.engine.memory import is_out_of_memory

_MIB = 2**20
_KIB = 1024
# NVML is asked again after that.
_ASK_AGAIN_S = 3.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Fill and print; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.fill", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600, help="at most (default: 600)")
    parser.add_argument("--backend", default=VLLM, help="vllm (default) or dry_run")
    options = parser.parse_args(arguments)
    began = time.monotonic()
    backend = load_backend(options.backend, load(os.environ), lambda phase, *_: print(phase))
    model = backend.model
    print(f"loaded in {time.monotonic() - began:.1f} s: context {model.max_model_len:,}, batch "
          f"{model.max_num_seqs}, KV cache {model.kv_cache_tokens:,} tokens")  # fmt: skip
    _show_memory("before", backend)
    filling = Filling(backend, _show_progress, options.seconds)
    began = time.monotonic()
    try:
        filling.run()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        print(f"out of memory with {filling.held():,} tokens in the KV cache: {error}")
        return 1
    finally:
        _show_memory("after", backend)
        backend.shutdown()
    part = "" if filling.whole else " (not all of it)"
    print(f"filled in {time.monotonic() - began:.1f} s{part}: context {filling.longest:,}, "
          f"{filling.tokens:,} tokens in the KV cache at once")  # fmt: skip
    return 0


def _show_progress(phase: str, done: int, total: int) -> None:
    print(f"{phase}: {done:,} of {total:,} tokens", flush=True)


def _show_memory(when: str, backend: Backend) -> None:
    process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB / _MIB
    time.sleep(_ASK_AGAIN_S if backend.gpus() else 0)
    gpus = [f"GPU {gpu.number} {gpu.used_bytes / _MIB:,.0f} of {gpu.total_bytes / _MIB:,.0f} MiB"
            for gpu in backend.gpus()]  # fmt: skip
    print(f"memory {when}: " + ", ".join([*gpus, f"process {process:,.0f} MiB at most"]))


if __name__ == "__main__":
    raise SystemExit(main())
