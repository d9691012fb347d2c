"""``GET /metrics`` for Prometheus, and ``GET /stats``: counts and state in one JSON document."""

import asyncio
import time
from collections import Counter
from typing import Any

import msgspec
from prometheus_client.exposition import choose_encoder

from vgate import __version__
from vgate.frontend.apis.system.engine_metrics import EngineCollector
from vgate.frontend.http import JSON, HttpRequest, Response
from vgate.frontend.observe import count_files
from vgate.frontend.observe.metrics import registry_of_all_workers
from vgate.frontend.services import Services
from vgate.wire.stats import BATCH_SIZE, EngineStats


async def show_metrics(services: Services, http: HttpRequest) -> Response:
    """Answer with the metrics of all workers and engines, in the format that the client accepts.

    API keys are named to an admin's key only.
    """
    names_keys = services.sees_all(http)
    encode, content_type = choose_encoder(http.header("accept") or "")

    count_files.save()

    def collect() -> bytes:
        registry = registry_of_all_workers(names_keys=names_keys)
        registry.register(EngineCollector(services.models, services.cache()))
        return encode(registry)

    # It reads the files of all workers, and other requests needn't wait for the disk.
    body = await asyncio.get_running_loop().run_in_executor(None, collect)
    return Response(200, body, [("content-type", content_type)])


async def stats(services: Services, http: HttpRequest) -> Response:
    """Answer with the counts and the state of all workers and engines.

    With a key that is no admin's, it is what that key uses.
    """
    about = {
        "version": __version__,
        "uptime_s": round(time.time() - services.started, 1),
        "ready": services.models.not_ready_because() is None,
        "limits": await services.limits(http),
    }
    if services.sees_all(http):
        about |= await _everything(services)
    return Response(200, msgspec.json.encode(about), [JSON])


async def _everything(services: Services) -> dict[str, Any]:
    """Return what isn't about one key."""
    count_files.save()
    totals = await asyncio.get_running_loop().run_in_executor(None, _totals)
    hits, misses = totals["vgate_cache_hits"], totals["vgate_cache_misses"]
    cache = services.cache()
    return {
        "requests": {
            "total": totals["vgate_requests"],
            "rejected": totals["vgate_rejected_requests"],
            "rate_limited": totals["vgate_rate_limited_requests"],
            "coalesced": totals["vgate_coalesced_requests"],
        },
        "tokens": {
            "prompt": totals["vgate_prompt_tokens"],
            "generated": totals["vgate_tokens_generated"],
        },
        "cache": {
            "enabled": services.config["cache"]["enabled"],
            "size": cache.entries,
            "bytes": cache.size_bytes,
            "maxsize": services.config["cache"]["maxsize"],
            "hits": hits,
            "misses": misses,
            "hit_rate": round(hits / (hits + misses), 4) if hits + misses else 0.0,
            "evictions": cache.evictions,
            "expirations": cache.expirations,
        },
        "engines": [
            {
                "model": model.name,
                "task": model.task,
                "state": model.engine.state,
                "detail": model.engine.detail,
                "restarts": model.engine.restarts,
                "running": model.status.running,
                "waiting": model.status.waiting,
                "kv_cache_usage": round(model.status.kv_cache_usage, 4),
                "batching": _batching(model.status.stats),
            }
            for model in services.models.states()
        ],
        "config": services.config,
    }


def _totals() -> Counter[str]:
    """Return each counter of all workers, summed over its labels."""
    totals: Counter[str] = Counter()
    for family in registry_of_all_workers().collect():
        for sample in family.samples:
            if sample.name == f"{family.name}_total":
                totals[family.name] += int(sample.value)
    return totals


def _batching(engine: EngineStats | None) -> dict[str, Any]:
    """Return the sizes of the engine's batches."""
    if engine is None:
        return {"steps": 0}
    steps = sum(engine.batch_size.counts)
    names = [f"<={bound}" for bound in BATCH_SIZE] + [f">{BATCH_SIZE[-1]}"]
    sizes = zip(names, engine.batch_size.counts, strict=True)
    return {
        "steps": steps,
        "sequence_steps": int(engine.batch_size.total),
        "mean_size": round(engine.batch_size.total / steps, 2) if steps else 0.0,
        "mean_step_ms": round(engine.step_s.total / steps * 1000, 3) if steps else 0.0,
        "sizes": {name: count for name, count in sizes if count},
        "preemptions": engine.preemptions,
    }
