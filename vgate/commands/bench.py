"""``vgate bench``: how many people a running server can serve well."""

import argparse
import asyncio
import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from vgate.commands.command import EXIT_FAILED, EXIT_OK
from vgate.commands.load import Load, Measured, measure
from vgate.commands.server import Server, configure_server
from vgate.commands.text import BOLD, DIM, GREEN, RED, YELLOW, latency, plain, styled, table
from vgate.config import Config

# More than this share of a processor, and it may be this program that is slow.
_BUSY = 0.8


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Measure a running server under load: time to first token (TTFT), gaps between chunks, "
        "tokens per second, errors. Each client sends its next request once it has its answer. "
        "Other users of the server are slowed down meanwhile. The result cache is bypassed "
        "(Cache-Control: no-store)."
    )
    parser.epilog = (
        "Exit status: 0 if the goals are met (with --sweep: at its first step), 1 if not. "
        "Examples: vgate bench; vgate bench --sweep 1,4,16,64 --seconds 10; vgate bench --json"
    )
    load = parser.add_argument_group("the load")
    add = load.add_argument
    add("--model", dest="name", metavar="NAME", help="served model (default: the first)")
    add("--clients", type=_client_count, default=8, metavar="N", help="concurrent clients (8)")
    add("--sweep", type=_counts, metavar="N,N,...", help="several values of --clients, in turn")
    add("--seconds", type=_seconds, default=30.0, metavar="S", help="duration of each step (30)")
    add(
        "--prompt-words", type=_token_count, default=100, metavar="N", help="words per prompt (100)"
    )
    add("--max-tokens", type=_token_count, default=128, metavar="N", help="tokens per answer (128)")
    goals = parser.add_argument_group("the goals")
    goals.add_argument(
        "--ttft", type=_seconds, default=2.0, metavar="S", help="highest p99 of the TTFT (2)"
    )
    goals.add_argument(
        "--gap", type=_seconds, default=0.1, metavar="S", help="highest p99 of the gaps (0.1)"
    )
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    configure_server(parser)


def run(options: argparse.Namespace, config: Config) -> int:
    """Measure and judge; return the exit status."""
    server = Server(options, config)
    model = options.name or server.models()[0]
    loads = [
        Load(model, clients, options.seconds, options.prompt_words, options.max_tokens)
        for clients in options.sweep or [options.clients]
    ]
    # What is wrong with the model, the key or the prompt is told before the load.
    body = {"model": model, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
    server.post("/v1/chat/completions", body, timeout_s=None)
    results: list[Measured] = []
    try:
        for load in loads:
            _say(f"{_clients(load.clients)} for {load.seconds:g} s: {plain(model)} on {server.url}")
            results.append(asyncio.run(measure(server, load)))
    except KeyboardInterrupt:
        if not results:
            raise
        _say("stopped")
    good = [meets(one, options.ttft, options.gap) for one in results]
    if options.json:
        print(json.dumps([_document(*pair) for pair in zip(results, good, strict=True)], indent=2))
    else:
        print("\n".join(report(results, good, options.ttft, options.gap)))
    return EXIT_OK if good[0] else EXIT_FAILED


def meets(measured: Measured, ttft_s: float, gap_s: float) -> bool:
    """Whether there were answers, none failed, and they came in time."""
    return (
        measured.complete > 0
        and not measured.failures
        and (_percentile(measured.ttfts, 0.99) or 0) <= ttft_s
        and (_percentile(measured.gaps, 0.99) or 0) <= gap_s
    )


def report(
    results: Sequence[Measured], good: Sequence[bool], ttft_s: float, gap_s: float
) -> list[str]:
    """Return the table and the verdict."""
    rows = [_HEAD, *map(_row, results)]
    head, *lines = table(rows, left=0)
    shown = [styled(head, BOLD)]
    shown += [styled(line, GREEN if fine else RED) for line, fine in zip(lines, good, strict=True)]
    shown += ["", _verdict(results, good, f"TTFT p99 {latency(ttft_s)}, gaps p99 {latency(gap_s)}")]
    for one in results:
        for error, count in one.failures.most_common(3):
            what = f"{count:,} failed with {_clients(one.load.clients)}: {plain(error)}"
            shown.append(styled(what, RED))
        if one.busy > _BUSY:
            what = (
                f"with {_clients(one.load.clients)} this command took {one.busy:.0%} of a processor"
            )
            shown.append(styled(f"{what}: the server may be faster than this", YELLOW))
    return shown


_HEAD = ("CLIENTS", "ANSWERS", "FAILED", "TOKENS/S", "TTFT P50", "P99", "GAP P50", "P99")


def _row(one: Measured) -> tuple[str, ...]:
    return (
        f"{one.load.clients:,}",
        f"{one.complete:,}",
        f"{one.failures.total():,}",
        f"{one.tokens_per_s:,.0f}",
        *(latency(_percentile(one.ttfts, share)) for share in (0.5, 0.99)),
        *(latency(_percentile(one.gaps, share)) for share in (0.5, 0.99)),
    )


def _verdict(results: Sequence[Measured], good: Sequence[bool], goals: str) -> str:
    served = [one for one, fine in zip(results, good, strict=True) if fine]
    if not any(one.complete for one in results):
        failed = any(one.failures for one in results)
        hint = "see below" if failed else "give it more --seconds"
        return styled(f"Bad: no answer was complete; {hint}.", RED)
    fastest = max(results, key=lambda one: one.tokens_per_s)
    most = f"{fastest.tokens_per_s:,.0f} tokens/s with {_clients(fastest.load.clients)}"
    if not served:
        return styled(f"Bad: the goals ({goals}) are missed; {most}.", RED)
    clients = max(one.load.clients for one in served)
    missed = [one.load.clients for one in results if one.load.clients > clients]
    beyond = f", too slow with {min(missed)}" if missed else ""
    return styled(f"Good with {_clients(clients)} at once ({goals}){beyond}; {most}.", GREEN)


def _clients(count: int) -> str:
    return "1 client" if count == 1 else f"{count:,} clients"


def _document(one: Measured, good: bool) -> dict[str, Any]:
    percentiles = {
        f"{name}_{label}_s": _percentile(values, share)
        for name, values in (("ttft", one.ttfts), ("gap", one.gaps))
        for label, share in (("p50", 0.5), ("p99", 0.99))
    }
    return {
        "model": one.load.model,
        "clients": one.load.clients,
        "seconds": round(one.seconds, 3),
        "answers": one.complete,
        "failed": one.failures.total(),
        "failures": dict(one.failures),
        "tokens_per_s": round(one.tokens_per_s, 1),
        **percentiles,
        "own_cpu_share": round(one.busy, 3),
        "goals_met": good,
    }


def _percentile(values: Sequence[float], share: float) -> float | None:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else None


def _up_to(most: int) -> Callable[[str], int]:
    """Return a type for argparse, which reports its errors."""

    def number(text: str) -> int:
        value = int(text)
        if not 1 <= value <= most:
            raise argparse.ArgumentTypeError(f"must be 1 to {most:,}")
        return value

    return number


_client_count = _up_to(4096)
_token_count = _up_to(1_000_000)


def _counts(text: str) -> list[int]:
    return [_client_count(part) for part in text.split(",")]


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError("must be more than 0 and at most 3600 seconds")
    return value


def _say(text: str) -> None:
    sys.stderr.write(styled(text, DIM) + "\n")
