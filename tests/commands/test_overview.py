"""What `vgate status` shows, from answers of a server."""

import copy

import pytest

from vgate.commands.overview import Sample, overview, percentile
from vgate.commands.text import cut, duration, latency, plain, table

READY = {
    "ready": True,
    "reason": None,
    "warnings": [],
    "engines": [
        {"model": "qwen", "state": "ready", "detail": "qwen: context 2048 tokens", "for_s": 70.0}
    ],
}
STATS = {
    "version": "1.2.3",
    "uptime_s": 4000.0,
    "ready": True,
    "limits": [
        {
            "key": "alice",
            "requests": 3,
            "rate_limit": 60,
            "window_s": 60.0,
            "tokens": 1200,
            "tokens_per_minute": None,
            "concurrent": 1,
            "concurrent_limit": 2,
        }
    ],
    "requests": {"total": 1204, "rejected": 3, "rate_limited": 2, "coalesced": 1},
    "tokens": {"prompt": 300, "generated": 5000},
    "histograms": {
        "ttft_s": {"bounds": [0.1, 0.2], "counts": [10, 0, 0]},
        "inter_token_s": {"bounds": [0.01, 0.02], "counts": [0, 0, 0]},
    },
    "cache": {
        "enabled": True, "size": 20, "bytes": 1048576, "maxsize": 1000, "hits": 30,
        "misses": 70, "hit_rate": 0.3, "evictions": 0, "expirations": 0,
    },
    "engines": [
        {
            "restarts": 4, "running": 12, "waiting": 5, "kv_cache_usage": 0.34,
            "batching": {"mean_step_ms": 11.2},
        }
    ],
}  # fmt: skip


class Server:
    url = "http://box:8000"


def shown(ready=READY, stats=STATS, earlier=None, reason=""):
    return "\n".join(overview(Server(), Sample(ready, stats, reason, 10.0), earlier))


def test_one_screen_has_it_all():
    text = shown()
    assert "V-Gate 1.2.3 on http://box:8000: ready, up 1 h 6 min" in text
    rows = {line.split()[0]: line.split() for line in text.splitlines() if line}
    assert " ".join(rows["qwen"]) == "qwen ready 1 min 10 s 12 5 34% 11 ms 4"
    assert "\n  context 2048 tokens\n" in text
    assert "1,204 in all, 3 rejected, 2 rate limited, 1 coalesced" in text
    assert "5,000 tokens in all\n" in text
    assert "p50 50 ms, p99 99 ms since the start" in text
    assert "none yet" in text
    assert "hits: 30 (30%), 20 of 1,000 answers, 1.0 MiB" in text
    assert rows["alice"] == ["alice", "3", "of", "60", "1,200", "1", "of", "2"]


def test_rates_and_percentiles_are_those_since_the_earlier_sample():
    stats = copy.deepcopy(STATS)
    stats["tokens"]["generated"] = 5400
    stats["histograms"]["ttft_s"]["counts"] = [10, 4, 0]
    text = shown(stats=stats, earlier=Sample(READY, STATS, "", 8.0))
    assert "5,400 tokens in all (200/s now)" in text
    assert "300 tokens in all (0.0/s now)" in text
    assert "p50 150 ms, p99 199 ms now" in text


def test_after_a_restart_rates_are_not_negative():
    before = copy.deepcopy(STATS)
    before["tokens"]["generated"] = 9000
    before["histograms"]["ttft_s"]["counts"] = [90, 0, 0]
    text = shown(earlier=Sample(READY, before, "", 8.0))
    assert "5,000 tokens in all (0.0/s now)" in text
    assert "p99 99 ms since the start" in text


def test_an_engine_may_come_or_go_between_two_samples():
    without = copy.deepcopy(STATS)
    without["histograms"]["ttft_s"]["counts"] = []
    assert "p99 99 ms since the start" in shown(earlier=Sample(READY, without, "", 8.0))
    assert "TTFT      none yet" in shown(stats=without, earlier=Sample(READY, STATS, "", 8.0))


def test_what_is_not_ready_and_what_may_not_be_seen_is_told():
    ready = {
        "ready": False,
        "reason": "qwen: starting",
        "warnings": ["counts are in memory only: disk full"],
        "engines": [{"model": "qwen", "state": "starting", "detail": "\x1b[2Jloading", "for_s": 1}],
    }
    text = shown(ready, None, reason="the server wants an API key")
    assert "V-Gate on http://box:8000: not ready: qwen: starting" in text
    assert "warning: counts are in memory only" in text
    assert "Counts and limits are not shown: the server wants an API key" in text
    assert "\x1b" not in text


def test_without_a_key_there_are_counts_of_the_engines():
    ready = {**READY, "engines": [], "states": {"ready": 2, "failed": 1}}
    text = shown(ready, None, reason="the server wants an API key")
    assert "\nEngines: 2 ready, 1 failed\n" in text
    assert "MODEL" not in text


def test_a_key_of_a_tenant_sees_its_own_limits():
    own = {name: STATS[name] for name in ("version", "uptime_s", "ready", "limits")}
    text = shown(stats=own)
    assert "alice" in text
    assert "qwen" in text
    assert "tokens in all" not in text
    assert "\n\n\n" not in text


def test_percentiles_are_spread_within_a_bucket_and_open_at_the_end():
    assert percentile([1, 2, 4], [0, 10, 0, 0], 0.5) == pytest.approx(1.5)
    assert percentile([1, 2, 4], [10, 0, 10, 0], 0.99) == pytest.approx(3.96)
    assert percentile([1, 2, 4], [1, 0, 0, 9], 0.5) == 4


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (41, "41 s"), (200, "3 min 20 s"), (18120, "5 h 2 min"), (1e6, "11 d 13 h")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "-"), (0.0094, "9.4 ms"), (0.4119, "412 ms"), (1.26, "1.3 s")],
)
def test_latencies(seconds, text):
    assert latency(seconds) == text


def test_columns_are_aligned_and_lines_are_cut_around_their_styles():
    assert table([("A", "N"), ("long", "12")]) == ["A      N", "long  12"]
    assert cut("\x1b[1mabcdef\x1b[0m gh", 4) == "\x1b[1mabc…\x1b[0m"
    assert cut("ab\x1b[1mcd\x1b[0m", 4) == "ab\x1b[1mcd\x1b[0m"
    assert plain("a\x1b[2Jé\n") == "a\N{REPLACEMENT CHARACTER}[2Jé\N{REPLACEMENT CHARACTER}"


def test_replicas_have_the_numbers_that_commands_take():
    engine, load = READY["engines"][0], STATS["engines"][0]
    ready = READY | {"engines": [{**engine, "engine": n + 4, "replica": n} for n in range(2)]}
    text = shown(ready, STATS | {"engines": [load, load]})
    rows = [line.split()[:3] for line in text.splitlines() if "qwen" in line or "MODEL" in line]
    assert rows == [["#", "MODEL", "STATE"], ["4", "qwen", "ready"], ["5", "qwen", "ready"]]
