"""The Ray cluster whose GPUs a model runs on: an existing one, or one of this machine alone."""

import logging
import os
import re
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from vgate.engine.backends.base import BackendError, ReportPhase

# GPUs of an engine that has just ended are free again after this time.
_GPUS_FREE_WITHIN_S = 30.0
_POLL_S = 1.0
_SHARED_MEMORY = "/dev/shm/"  # noqa: S108 - read only from the maps of our own workers
# Longer ones leave no room for the names of Ray's sockets.
_LONGEST_DIRECTORY = 32
# Ray's own choice, unless TMPDIR says otherwise.
_RAY_DIRECTORY = "/tmp/ray"  # noqa: S108 - Ray makes a directory of this session's own there


def join_cluster(parallel: Any, device: str, report_phase: ReportPhase) -> None:
    """Connect this process to the cluster, once that has enough GPUs free; vLLM goes on from there.

    It is the cluster that RAY_ADDRESS names, or that `ray start` has made this machine a part of.
    Without one, Ray is started on this machine and ends with this process.

    Args:
        parallel: vLLM's ParallelConfig.
        report_phase: Told what is waited for.
        device: What Ray calls the platform's devices; "" if vLLM can't run there with Ray.

    Raises:
        BackendError: There is no such cluster, or it has too few GPUs.
    """
    if not device:
        raise BackendError(
            "model.distributed_executor_backend is ray, and this build of vLLM runs its workers on "
            "a CPU, which it can't do with Ray: set it to mp or null, or use a build for GPUs"
        )
    import ray

    report_phase("connecting to the Ray cluster")
    _connect(ray, parallel.ray_runtime_env)
    needed, deadline = parallel.world_size, time.monotonic() + _GPUS_FREE_WITHIN_S
    while ray.available_resources().get(device, 0) < needed:
        if ray.cluster_resources().get(device, 0) < needed or time.monotonic() > deadline:
            # vLLM would wait for half an hour.
            raise BackendError(_too_few(ray, device, needed), permanent=False)
        report_phase("waiting for free GPUs in the Ray cluster")
        time.sleep(_POLL_S)


def shared_memory_of_workers(executor: Any) -> set[Path]:
    """Return what the workers on this machine share among each other and with this process.

    Ray kills them without a warning, and it would stay.
    """
    buffers = [queue.buffer for queue in getattr(executor, "response_mqs", ())]
    ours = [f"{_SHARED_MEMORY}{b.shared_memory.name}" for b in buffers if b is not None]
    found = set(ours)
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):
            text = maps.read_text(errors="replace")
            if any(path in text for path in ours):
                found.update(
                    re.findall(f"{_SHARED_MEMORY}.*(?<! \\(deleted\\))$", text, re.MULTILINE)
                )
    return set(map(Path, found))


def _connect(ray: Any, runtime_env: Any) -> None:
    address = os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    options = {"logging_level": logging.WARNING, "runtime_env": runtime_env}
    try:
        ray.init(address=address or "auto", **options)
    except ConnectionError as error:
        if address:
            raise BackendError(
                f"there is no Ray cluster at RAY_ADDRESS={address}: start it with `ray start "
                "--head`, or unset RAY_ADDRESS to run all workers on this machine",
                permanent=False,
            ) from error
    except RuntimeError as error:
        # Such as another version of Ray or of Python than the cluster's.
        raise BackendError(f"cannot join the Ray cluster: {error}") from error
    else:
        return
    directory = tempfile.gettempdir()  # which is removed after this process
    if len(directory) > _LONGEST_DIRECTORY:
        directory = os.environ.get("RAY_TMPDIR", _RAY_DIRECTORY)
    ray.init(address="local", include_dashboard=False, _temp_dir=directory, **options)


def _too_few(ray: Any, device: str, needed: int) -> str:
    machines = [node for node in ray.nodes() if node["Alive"]]
    total, free = ray.cluster_resources(), ray.available_resources()
    count = f"{len(machines)} machine" + ("s" if len(machines) > 1 else "")
    return (
        "model.tensor_parallel_size x model.pipeline_parallel_size needs "
        f"{needed} GPUs, and the Ray cluster of {count} has {total.get(device, 0):.0f}, of which "
        f"{free.get(device, 0):.0f} are free: add machines to it (ray start --address=...), end "
        "what else runs there (ray status shows it), or lower the sizes"
    )
