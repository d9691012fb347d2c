"""``GET /metrics`` for Prometheus, and ``GET /stats``: counts and state in one JSON document."""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import msgspec
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from prometheus_client.openmetrics.exposition import ALLOWUTF8

from vgate import __version__
from vgate.frontend.apis.system.engine_metrics import EngineCollector
from vgate.frontend.apis.system.vllm_names import VLLMNames
from vgate.frontend.engines import STATUS, ModelState
from vgate.frontend.http import JSON, HttpRequest, Response
from vgate.frontend.observe import count_files
from vgate.frontend.observe.metrics import TTFT_NAME, AllCounts
from vgate.frontend.services import Services
from vgate.wire.stats import BATCH_SIZE, REQUEST_S, STEP_S, EngineStats


async def show_metrics(services: Services, http: HttpRequest) -> Response:
    """Answer with the metrics of all workers and engines, in the format that the client accepts.

    API keys are named only where `metrics.per_key` is on, and to an admin's key only.
    """
    has_examples = services.sees_all(http)
    names_keys = services.config["metrics"]["per_key"] and has_examples
    encode: Any
    encode, content_type = choose_encoder(http.header("accept") or "")

    count_files.save()

    def collect() -> bytes:
        registry = CollectorRegistry()
        registry.register(AllCounts(names_keys=names_keys, has_examples=has_examples))
        registry.register(EngineCollector(services))
        if services.config["metrics"]["vllm_names"]:
            ours, registry = registry, CollectorRegistry()
            registry.register(VLLMNames(ours, services.models))
        # No name needs it, and the escaping that is usual turns colons into underscores in samples
        # of OpenMetrics (prometheus_client 0.26).
        body: bytes = encode(registry, escaping=ALLOWUTF8)
        return body

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
    totals, ttft = await asyncio.get_running_loop().run_in_executor(None, _totals)
    of_engines = [model.status.stats for model in services.models.states() if model.status.stats]
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
        "histograms": _histograms(ttft, of_engines),
        "prefix_cache": {
            "queries": sum(of.prefix_cache_queries for of in of_engines),
            "hits": sum(of.prefix_cache_hits for of in of_engines),
        },
        "models": [_model(model) for model in services.models.states()],
        "engines": [
            {
                "model": model.name,
                "engine": replica.number,
                "replica": replica.replica,
                "task": model.task,
                "state": replica.engine.state,
                "detail": replica.engine.detail,
                "restarts": replica.engine.restarts,
                "running": replica.status.running,
                "waiting": replica.status.waiting,
                "kv_cache_usage": round(replica.status.kv_cache_usage, 4),
                "batching": _batching(replica.status.stats),
                "speculation": _speculation(replica.status.stats),
            }
            for model in services.models.states()
            for replica in model.replicas
        ],
        "config": services.config,
    }


def _model(model: ModelState) -> dict[str, Any]:
    return {
        "model": model.name,
        "status": STATUS[model.engine.state],
        "load": model.load or "resident",
        "loads": model.engine.loads,
        "unloads": model.engine.unloads,
    }


def _totals() -> tuple[Counter[str], list[int]]:
    """Return each counter of all workers, summed over its labels, and the counts of the TTFT."""
    totals: Counter[str] = Counter()
    up_to: Counter[float] = Counter()
    for family in AllCounts().collect():
        for sample in family.samples:
            if sample.name == f"{family.name}_total":
                totals[family.name] += int(sample.value)
            elif sample.name == f"{TTFT_NAME}_bucket":
                up_to[float(sample.labels["le"])] += int(sample.value)
    cumulative = [0, *(up_to[bound] for bound in (*REQUEST_S, math.inf))]
    return totals, [upper - lower for lower, upper in pairwise(cumulative)]


def _histograms(ttft: list[int], engines: list[EngineStats]) -> dict[str, Any]:
    """Return the counts of each bucket since the start.

    What came between two of these answers has percentiles of its own.
    """
    return {
        "ttft_s": _histogram(REQUEST_S, [ttft]),
        "inter_token_s": _histogram(STEP_S, [of.inter_token_s.counts for of in engines]),
        "queue_s": _histogram(REQUEST_S, [of.queue_s.counts for of in engines]),
        "prefill_s": _histogram(REQUEST_S, [of.prefill_s.counts for of in engines]),
    }


def _histogram(bounds: Sequence[float], counts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return the sum of the counts; the last one has no upper bound."""
    return {"bounds": bounds, "counts": [sum(column) for column in zip(*counts, strict=True)]}


def _speculation(engine: EngineStats | None) -> dict[str, Any]:
    """Return the tokens that were drafted since the engine's start, and how many were right."""
    drafted, right = (engine.draft_tokens, engine.accepted_draft_tokens) if engine else (0, 0)
    rate = round(right / drafted, 4) if drafted else 0.0
    return {"draft_tokens": drafted, "accepted_tokens": right, "acceptance_rate": rate}


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
