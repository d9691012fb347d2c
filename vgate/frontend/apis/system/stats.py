"""``GET /stats``: what the server has done and how it stands, over all workers and engines."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec

from vgate import __version__
from vgate.frontend.http.request import JSON, HttpRequest, Response
from vgate.frontend.observe.metrics import registry_of_all_workers
from vgate.frontend.services import Services
from vgate.wire.stats import BATCH_SIZE, EngineStats


async def stats(services: Services, _http: HttpRequest) -> Response:
    """Answer with one document."""
    totals = await asyncio.get_running_loop().run_in_executor(None, _totals)
    hits, misses = totals.get("vgate_cache_hits", 0), totals.get("vgate_cache_misses", 0)
    cache = services.cache()
    body = {
        "version": __version__,
        "uptime_s": round(time.time() - services.started, 1),
        "ready": services.models.not_ready_because() is None,
        "requests": {
            "total": totals.get("vgate_requests", 0),
            "rejected": totals.get("vgate_rejected_requests", 0),
            "rate_limited": totals.get("vgate_rate_limited_requests", 0),
            "coalesced": totals.get("vgate_coalesced_requests", 0),
        },
        "tokens": {
            "prompt": totals.get("vgate_prompt_tokens", 0),
            "generated": totals.get("vgate_tokens_generated", 0),
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
        "limits": await services.limits(),
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
    return Response(200, msgspec.json.encode(body), [JSON])


def _totals() -> dict[str, int]:
    """Return each counter of all workers, summed over its labels."""
    totals: dict[str, float] = {}
    for family in registry_of_all_workers().collect():
        for sample in family.samples:
            if sample.name == f"{family.name}_total":
                totals[family.name] = totals.get(family.name, 0) + sample.value
    return {name: int(value) for name, value in totals.items()}


def _batching(engine: EngineStats | None) -> dict[str, Any]:
    """Return how the engine's batches were filled."""
    if engine is None:
        return {"steps": 0}
    steps = sum(engine.batch_size.counts)
    names = [f"<={bound}" for bound in BATCH_SIZE] + [f">{BATCH_SIZE[-1]}"]
    return {
        "steps": steps,
        "sequence_steps": int(engine.batch_size.total),
        "mean_size": round(engine.batch_size.total / steps, 2) if steps else 0.0,
        "mean_step_ms": round(engine.step_s.total / steps * 1000, 3) if steps else 0.0,
        "sizes": {
            name: count
            for name, count in zip(names, engine.batch_size.counts, strict=True)
            if count
        },
        "preemptions": engine.preemptions,
    }
