"""One turn of one contender: the load generator in a process of its own, and what it found."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.compare.processes import cpu_s
from bench.compare.results import Measures
from bench.compare.service import ROOT, FailedError, Running
from bench.load.histogram import Spread
from bench.load.processes import Cost
from bench.load.summary import Summary

_GRACE_S = 30
_NOT_STARTED = 2  # the load generator's exit status when nothing was measured
# Beyond this share of a core, what should stand still disturbs what is measured.
_DISTURBING_SHARE = 0.05


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """What every contender of a case is sent. Prompts are random unless they are the `same`."""

    clients: int
    requests: int | None = None
    seconds: float | None = None
    output_tokens: int = 64
    prompt_tokens: int = 64
    stream: bool = True
    same: bool = False
    temperature: float | None = None
    prompts: str | None = None
    warmup: int = 0
    timeout_s: float = 120.0

    def arguments(self, running: Running) -> list[str]:
        """Return the load generator's command line for a contender."""
        service = running.service
        found = [service.url, "--quiet", "--model", service.model, *service.load_flags]
        values = {
            "--clients": self.clients,
            "--requests": self.requests,
            "--seconds": self.seconds,
            "--max-tokens": self.output_tokens,
            "--prompt-tokens": self.prompt_tokens,
            "--temperature": self.temperature,
            "--prompts": self.prompts,
            "--warmup": self.warmup,
            "--timeout": self.timeout_s,
            "--api-key": service.api_key,
            "--expect-chunks": self.output_tokens if self.stream and service.exact_chunks else None,
        }
        for flag, value in values.items():
            if value is not None:
                found += [flag, str(value)]
        found += [] if self.stream else ["--no-stream"]
        found += ["--same-prompt", "--expect-same"] if self.same else []
        for kind, pid in running.processes:
            found += ["--pid", f"{kind}={pid}"]
        return found

    def described(self) -> dict[str, str | int | float | bool]:
        """Return it without what is not set."""
        fields = msgspec.to_builtins(self)
        return {name: value for name, value in fields.items() if value is not None}


class Sample(msgspec.Struct, frozen=True):
    """What one turn gave."""

    measures: Measures
    failures: list[str]


class LoadProcess:
    """The load generator at work; `result` waits for its end."""

    def __init__(self, running: Running, load: Load) -> None:
        self._name = running.name
        self._directory = tempfile.TemporaryDirectory()
        self._file = Path(self._directory.name, "load.json")
        self._deadline_s = load.timeout_s + (load.seconds or 0) + _GRACE_S
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "bench.load", *load.arguments(running)),
                *("--json", str(self._file)),
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def result(self) -> Summary:
        """Return its summary.

        Raises:
            FailedError: It could not measure anything.
        """
        try:
            _, errors = self._process.communicate(timeout=self._deadline_s)
        except subprocess.TimeoutExpired:
            raise FailedError(f"{self._name}: the load did not end in time") from None
        finally:
            self.close()
        if self._process.returncode == _NOT_STARTED or not self._file.is_file():
            raise FailedError(f"{self._name}: {errors.decode(errors='replace').strip()}")
        summary = msgspec.json.decode(self._file.read_bytes(), type=Summary)
        self._directory.cleanup()
        return summary

    def stop(self) -> None:
        """Ask it to end now; its summary has what was measured so far."""
        self._process.terminate()

    def close(self) -> None:
        """End it, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


def take_turn(running: Running, load: Load, others: Sequence[Running] = ()) -> Sample:
    """Send the load; `others` run as well and should stand still."""
    before_s = [cpu_s(other.processes) for other in others]
    summary = LoadProcess(running, load).result()
    spent_s = sum(
        cpu_s(other.processes) - before for other, before in zip(others, before_s, strict=True)
    )
    sample = sample_of(summary)
    share = spent_s / summary.seconds if summary.seconds else 0.0
    if share > _DISTURBING_SHARE:
        sample.measures["others_cpu_share"] = share
    return sample


def sample_of(summary: Summary, *, stopped: bool = False) -> Sample:
    """Return the measures of a run and what was wrong in it; a stopped one may be incomplete."""
    measures: Measures = {
        "requests_per_s": summary.requests_per_s,
        "output_tokens_per_s": summary.output_tokens_per_s,
        "generator_cpu_share": summary.own.cpu_share,
    }
    times = summary.latency_ms
    for name, spread in (
        ("ttft_ms", times.ttft),
        ("tpot_ms", times.tpot),
        ("itl_ms", times.itl),
        ("e2e_ms", times.e2e),
    ):
        if spread is not None:
            measures |= _percentiles(name, spread)
    for cost in summary.processes:
        measures |= _costs(cost)
    failures = [
        f"{error.count} of {summary.sent} answers: {kind}: {error.first}"
        for kind, error in summary.errors.items()
    ]
    if not summary.completed and not failures and not stopped:
        failures.append("no answer was completed")
    if summary.interrupted and not stopped:
        failures.append("the run was stopped")
    failures += [
        f"{cost.name}: {cost.gone} processes died" for cost in summary.processes if cost.gone
    ]
    return Sample(measures, failures)


def _percentiles(name: str, spread: Spread) -> Measures:
    return {f"{name}.{p}": getattr(spread, p) for p in ("mean", "p50", "p90", "p99", "max")}


def _costs(cost: Cost) -> Measures:
    kind = cost.name
    measures = {
        f"cpu_s.{kind}": cost.cpu_s,
        f"rss_mib.{kind}": cost.rss_mib,
        f"peak_rss_mib.{kind}": cost.peak_rss_mib,
    }
    for name, value in (
        ("cpu_us_per_request", cost.cpu_us_per_request),
        ("cpu_us_per_token", cost.cpu_us_per_output_token),
    ):
        if value is not None:
            measures[f"{name}.{kind}"] = value
            if cost.user_share is not None:
                measures[f"{name}.{kind}.user"] = value * cost.user_share
                measures[f"{name}.{kind}.kernel"] = value * (1 - cost.user_share)
    return measures
