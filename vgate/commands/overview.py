"""What ``vgate status`` and ``vgate top`` show of a server, from the answers of its endpoints."""

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from vgate.commands.server import ApiError, Server
from vgate.commands.text import (
    BOLD,
    DIM,
    GREEN,
    RED,
    YELLOW,
    duration,
    latency,
    plain,
    styled,
    table,
)
from vgate.config.section import MIB

_STYLES = {
    "ready": GREEN,
    **dict.fromkeys(("starting", "restarting", "draining", "queued"), YELLOW),
    "unloaded": DIM,
}


class Sample(msgspec.Struct, frozen=True):
    """The state of a server at a time; `stats` is None for those who may not see it."""

    ready: dict[str, Any]
    stats: dict[str, Any] | None
    hidden_because: str
    at_s: float

    @classmethod
    def of(cls, server: Server) -> "Sample":
        """Ask the server."""
        ready = server.get("/ready", also=(503,))
        stats, reason = None, ""
        try:
            stats = server.get("/stats")
        except ApiError as error:
            reason = str(error)
        return cls(ready, stats, reason, time.monotonic())


def overview(server: Server, now: Sample, earlier: Sample | None = None) -> list[str]:
    """Return the lines of one screen; the rates are those since the earlier sample."""
    lines = [_headline(server, now), ""]
    lines += [styled(f"warning: {plain(text)}", YELLOW) for text in now.ready.get("warnings", ())]
    lines += _engines(now)
    if now.stats is None:
        return [*lines, "", f"Counts and limits are not shown: {now.hidden_because}"]
    for block in ([*_counts(now, earlier)], _limits(now.stats.get("limits", ()))):
        if block:
            lines += ["", *block]
    return lines


def _headline(server: Server, now: Sample) -> str:
    ready = bool(now.ready.get("ready"))
    about = now.stats or {}
    name = f"V-Gate {plain(about['version'])}" if "version" in about else "V-Gate"
    state = "ready" if ready else f"not ready: {plain(now.ready.get('reason'))}"
    up = f", up {duration(about['uptime_s'])}" if "uptime_s" in about else ""
    return f"{styled(name, BOLD)} on {server.url}: {styled(state, GREEN if ready else RED)}{up}"


def _engines(now: Sample) -> Iterator[str]:
    """Yield a line for each engine, and what it says of itself."""
    states = now.ready.get("engines", [])
    if not states and (counts := now.ready.get("states")):
        yield f"Engines: {', '.join(f'{count} {plain(state)}' for state, count in counts.items())}"
        return
    stats = (now.stats or {}).get("engines") or [{}] * len(states)
    head = ("MODEL", "STATE", "FOR", "RUNNING", "WAITING", "KV CACHE", "STEP", "RESTARTS")
    rows = [head, *(_engine(*pair) for pair in zip(states, stats, strict=False))]
    if any(state.get("replica") for state in states):
        # As `vgate engines` takes it.
        numbers = ["#", *(str(state["engine"]) for state in states)]
        rows = [(number, *row) for number, row in zip(numbers, rows, strict=False)]
    for index, line in enumerate(table(rows, left=len(rows[0]) - 6)):
        if index == 0:
            yield styled(line, BOLD)
            continue
        state = states[index - 1]
        yield styled(line, _STYLES.get(state["state"], RED))
        detail = plain(state["detail"]).removeprefix(plain(state["model"])).lstrip(" :")
        if detail:
            yield f"  {detail}"


def _engine(state: Mapping[str, Any], stats: Mapping[str, Any]) -> tuple[str, ...]:
    step = stats.get("batching", {}).get("mean_step_ms")
    usage = stats.get("kv_cache_usage")
    return (
        plain(state["model"]),
        plain(state["state"]),
        duration(state["for_s"]),
        *(str(stats.get(name, "-")) for name in ("running", "waiting")),
        "-" if usage is None else f"{usage:.0%}",
        latency(step / 1000) if step else "-",
        str(stats.get("restarts", "-")),
    )


def _counts(now: Sample, earlier: Sample | None) -> Iterator[str]:
    """Yield what all models have served."""
    stats, before = now.stats or {}, (earlier.stats if earlier else None) or {}
    if requests := stats.get("requests"):
        rest = ", ".join(f"{requests[what]:,} {what.replace('_', ' ')}" for what in _ENDS)
        yield f"Requests  {requests['total']:,} in all, {rest}"
    if tokens := stats.get("tokens"):
        old, passed_s = before.get("tokens") or {}, now.at_s - earlier.at_s if earlier else 0.0
        for what, name in (("generated", "Answers"), ("prompt", "Prompts")):
            rate = _rate(tokens[what], old.get(what), passed_s)
            yield f"{name}   {tokens[what]:,} tokens in all{rate}"
    if histograms := stats.get("histograms"):
        old = before.get("histograms", {})
        for name, what in (("ttft_s", "TTFT   "), ("inter_token_s", "Gaps   ")):
            if name in histograms:
                yield f"{what}   {_percentiles(histograms[name], old.get(name))}"
    if (cache := stats.get("cache")) and cache["enabled"]:
        yield (
            f"Cache     hits: {cache['hits']:,} ({cache['hit_rate']:.0%}), {cache['size']:,} of "
            f"{cache['maxsize']:,} answers, {cache['bytes'] / MIB:.1f} MiB"
        )


_ENDS = ("rejected", "rate_limited", "coalesced")


def _rate(count: int, before: int | None, passed_s: float) -> str:
    """Return how fast a count grows; "" if it isn't known how much it was before."""
    if before is None or passed_s <= 0:
        return ""
    rate = max(0.0, (count - before) / passed_s)
    return f" ({rate:,.0f}/s now)" if rate >= 10 else f" ({rate:.1f}/s now)"


def _percentiles(now: Mapping[str, Any], before: Mapping[str, Any] | None) -> str:
    """Return p50 and p99 of what came since `before`, or since the start if nothing did."""
    bounds, counts = now["bounds"], now["counts"]
    old = before["counts"] if before else ()
    # While there is no engine, the histogram has no buckets.
    is_same = len(old) == len(counts)
    recent = [count - one for count, one in zip(counts, old, strict=True)] if is_same else []
    # Nothing since, or another instance than before.
    is_recent = sum(recent) > 0 and min(recent) >= 0
    counts = recent if is_recent else counts
    since = " now" if is_recent else " since the start"
    if not sum(counts):
        return "none yet"
    return (
        f"p50 {latency(percentile(bounds, counts, 0.5))}, "
        f"p99 {latency(percentile(bounds, counts, 0.99))}{since}"
    )


def percentile(bounds: Sequence[float], counts: Sequence[int], share: float) -> float:
    """Return a percentile of a histogram, evenly spread within a bucket as Prometheus has it.

    The last count has no upper bound; what falls there is at least the last bound.
    """
    rank = share * sum(counts)
    below = 0
    for index, count in enumerate(counts[: len(bounds)]):
        if count and below + count >= rank:
            lower = bounds[index - 1] if index else 0.0
            return lower + (bounds[index] - lower) * (rank - below) / count
        below += count
    return bounds[-1]


def _limits(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rows:
        return []
    shown: list[tuple[str, ...]] = [("KEY", "REQUESTS", "TOKENS/MIN", "CONCURRENT")]
    for row in rows:
        limits = ("rate_limit", "tokens_per_minute", "concurrent_limit")
        used = zip(("requests", "tokens", "concurrent"), limits, strict=True)
        cells = (_of(row[name], row[limit]) for name, limit in used)
        shown.append((plain(row["key"]), *cells))
    head, *lines = table(shown)
    return [styled(head, BOLD), *lines]


def _of(used: int, limit: int | None) -> str:
    return f"{used:,}" if limit is None else f"{used:,} of {limit:,}"
