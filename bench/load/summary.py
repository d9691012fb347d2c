"""The results of a run, as data and as a table."""

import msgspec

from bench.load.histogram import Spread
from bench.load.options import Options
from bench.load.processes import Cost
from bench.load.tally import ErrorCount

# Beyond this share of one core, times measure the load generator as much as the server.
_BUSY_SHARE = 0.85
_BUSY_FROM_S = 0.1  # the share of a shorter run is accidental


class Own(msgspec.Struct, frozen=True):
    """What the load generator itself used."""

    cpu_s: float
    cpu_share: float
    cpu_us_per_chunk: float | None
    event_loop: str


class Latency(msgspec.Struct, frozen=True):
    """Times in milliseconds."""

    ttft: Spread | None
    tpot: Spread | None
    itl: Spread | None
    e2e: Spread | None
    send_lag: Spread | None


class Summary(msgspec.Struct, frozen=True, kw_only=True):
    """A run: its settings, host and results. This is the JSON file's structure.

    Rates and tokens are those of complete answers; `delivered_tokens_per_s` and each process's cost
    of a token count unfinished answers' too, by their chunks.
    """

    format: int = 1
    started_at: str
    model: str
    settings: Options
    host: dict[str, str | int]
    interrupted: bool
    seconds: float
    sent: int
    completed: int
    failed: int
    given_up: int
    requests_per_s: float
    output_tokens_per_s: float
    delivered_tokens_per_s: float
    total_tokens_per_s: float
    prompt_tokens: int
    output_tokens: int
    chunks: int
    without_usage: int
    latency_ms: Latency
    statuses: dict[int, int]
    errors: dict[str, ErrorCount]
    own: Own
    processes: list[Cost]

    @property
    def all_complete(self) -> bool:
        """Whether every request that was to be sent has a complete answer."""
        return not self.failed and not self.interrupted and self.completed > 0


def own_cost(cpu_s: float, wall_s: float, chunks: int, event_loop: str) -> Own:
    """Return the load generator's own cost."""
    each = round(cpu_s * 1e6 / chunks, 2) if chunks else None
    return Own(round(cpu_s, 3), round(cpu_s / wall_s, 3) if wall_s else 0.0, each, event_loop)


def table(summary: Summary) -> str:
    """Return the summary for people."""
    lines = [_settings(summary), "", *_totals(summary), ""]
    lines += _latency_lines(summary)
    lines += _error_lines(summary)
    lines += _cpu_lines(summary)
    return "\n".join(lines)


def _settings(summary: Summary) -> str:
    settings = summary.settings
    pace, body = settings.pace, settings.body
    if pace.rate is None:
        load = f"{pace.clients} clients"
    else:
        load = f"{pace.rate:g} requests/s, {'even' if pace.uniform else 'Poisson'}"
        load += f", at most {pace.max_in_flight} in flight" if pace.max_in_flight else ""
    prompt = settings.prompt
    words = prompt.file or f"{prompt.tokens} words{', the same' if prompt.same else ''}"
    how = "streamed" if body.stream else "whole"
    return (
        f"{settings.url}  {summary.model}\n"
        f"{body.endpoint}, {how}; {load}; prompt: {words}, seed {prompt.seed}; "
        f"at most {body.max_tokens} tokens{', to the end' if body.ignore_eos else ''}"
    )


def _totals(summary: Summary) -> list[str]:
    requests = f"{summary.completed} complete, {summary.failed} failed"
    if summary.given_up:
        requests += f", {summary.given_up} given up"
    rates = (
        f"{summary.requests_per_s:,.2f} requests/s",
        f"{summary.output_tokens_per_s:,.1f} output tokens/s",
        f"{summary.total_tokens_per_s:,.1f} total tokens/s",
    )
    early = " (stopped early)" if summary.interrupted else ""
    tokens = f"{summary.prompt_tokens:,} prompt, {summary.output_tokens:,} output"
    lines = [
        f"requests     {requests} in {summary.seconds:.2f} s{early}",
        f"throughput   {'   '.join(rates)}",
        f"tokens       {tokens}, in {summary.chunks:,} chunks",
    ]
    if summary.without_usage:
        lines.append(f"             {summary.without_usage} answers without usage: chunks counted")
    return lines


def _latency_lines(summary: Summary) -> list[str]:
    columns = ("mean", "p50", "p90", "p95", "p99", "max")
    lines = [f"{'ms':12}" + "".join(f"{name:>11}" for name in columns)]
    times = summary.latency_ms
    rows = [("TTFT", times.ttft), ("TPOT", times.tpot), ("ITL", times.itl), ("E2E", times.e2e)]
    if summary.settings.pace.rate is not None:
        rows.append(("send lag", times.send_lag))
    for name, spread in rows:
        if spread is not None:
            cells = (f"{getattr(spread, column):11.2f}" for column in columns)
            lines.append(f"{name:12}" + "".join(cells))
    return lines


def _error_lines(summary: Summary) -> list[str]:
    if not summary.errors:
        return []
    lines = ["", "errors"]
    for kind, error in sorted(summary.errors.items(), key=lambda item: -item[1].count):
        lines.append(f"  {error.count:>6}  {kind}: {error.first}")
    return lines


def _cpu_lines(summary: Summary) -> list[str]:
    own = summary.own
    each = f", {own.cpu_us_per_chunk} us per chunk" if own.cpu_us_per_chunk else ""
    lines = ["", f"cpu          load generator {own.cpu_s:.2f} s{each} ({own.event_loop})"]
    for cost in summary.processes:
        line = f"             {cost.name} {cost.cpu_s:.2f} s"
        if cost.cpu_us_per_request is not None:
            line += f", {cost.cpu_us_per_request:,.0f} us per request"
        if cost.cpu_us_per_output_token is not None:
            line += f", {cost.cpu_us_per_output_token:,.1f} us per output token"
        line += f", peak RSS {cost.peak_rss_mib:,.0f} MiB"
        lines.append(line + (f", {cost.gone} of its processes have gone" if cost.gone else ""))
    if own.cpu_share > _BUSY_SHARE and own.cpu_s > _BUSY_FROM_S:
        lines.append(
            f"warning: the load generator used {own.cpu_share:.0%} of a core; "
            "what it measured is partly itself"
        )
    return lines
