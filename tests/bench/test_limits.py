"""The limiter's measurement, made small."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run it as its users do; it forks, which a test run must not."""
    return subprocess.run(
        [sys.executable, "-m", "bench.limits", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_what_it_prints() -> None:
    done = run("--workers", "3", "--requests", "60", "--limit", "7", "--repetitions", "2")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["admitted"] == [7, 7]
    assert summary["decisions"] == 120
    assert summary["options"] == {"workers": 3, "requests": 60, "limit": 7, "repetitions": 2}
    assert summary["cores"] >= 1
    assert summary["clock_us"] > 0
    for times in (summary["cpu_us"], summary["wall_us"]):
        assert list(times) == ["p50", "p90", "p99", "max"]
        for spread in times.values():
            assert 0 < spread["min"] <= spread["median"] <= spread["max"]
        medians = [spread["median"] for spread in times.values()]
        assert medians == sorted(medians)
    # Both are of the same decisions, and no thread computes for longer than it takes.
    assert summary["cpu_us"]["p50"]["min"] <= summary["wall_us"]["p50"]["max"]


@pytest.mark.parametrize("arguments", [("--workers", "0"), ("--requests", "7"), ("--limit", "x")])
def test_what_cannot_be_measured(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert "error:" in done.stderr
