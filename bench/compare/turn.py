"""One contender's turn: the load generator in its own process, and what it measured."""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.compare.results import Measures
from bench.compare.service import ROOT, FailedError, Running, cpu_s
from bench.load.histogram import Spread
from bench.load.processes import Cost
from bench.load.summary import Summary

_GRACE_S = 30
_NOT_STARTED = 2  # the load generator's exit status when nothing was measured
# Above this share of a core, contenders that should be idle disturb the measurement.
_DISTURBING_SHARE = 0.05


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """The load that every contender of a case gets; fields are the load generator's options."""

    clients: int | None = None
    rate: float | None = None
    requests: int | None = None
    seconds: float | None = None
    max_tokens: int = 64
    prompt_tokens: int = 64
    stream: bool = True
    temperature: float | None = None
    prompts: str | None = None
    warmup: int = 0
    timeout: float = 120.0

    def described(self) -> dict[str, str | int | float | bool]:
        """Return the options that are set."""
        values = {name: getattr(self, name) for name in self.__struct_fields__}
        return {name: value for name, value in values.items() if value is not None}

    def arguments(self, running: Running, api_key: str | None) -> list[str]:
        """Return the load generator's command line for a contender."""
        service = running.service
        values = self.described() | {"model": service.model}
        found = [f"http://127.0.0.1:{service.port}", "--quiet", *service.load_flags]
        if not values.pop("stream"):
            found.append("--no-stream")
        elif service.exact_chunks:
            values["expect-chunks"] = self.max_tokens
        if api_key:
            values["api-key"] = api_key
        for name, value in values.items():
            found += [f"--{name.replace('_', '-')}", str(value)]
        for kind, pid in running.processes:
            found += ["--pid", f"{kind}={pid}"]
        return found


class Sample(msgspec.Struct, frozen=True):
    """What one turn gave: measures, and a sentence for each kind of wrong answer."""

    measures: Measures
    failures: list[str]


class LoadProcess:
    """A load generator at work; `result` waits for its end. `api_key` replaces the contender's."""

    def __init__(self, running: Running, load: Load, api_key: str | None = None) -> None:
        self._name = running.name
        self._file = Path(tempfile.mkstemp(prefix="vgate-load-", suffix=".json")[1])
        key = api_key or running.service.api_key
        self._deadline_s = load.timeout + (load.seconds or 0) + _GRACE_S
        command = [sys.executable, "-m", "bench.load", *load.arguments(running, key)]
        self._process = subprocess.Popen(
            [*command, "--json", str(self._file)],
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
            written = self._file.read_bytes()
        except subprocess.TimeoutExpired:
            raise FailedError(f"{self._name}: the load did not end in time") from None
        finally:
            self.close()
        if self._process.returncode == _NOT_STARTED or not written:
            raise FailedError(f"{self._name}: {errors.decode(errors='replace').strip()}")
        return msgspec.json.decode(written, type=Summary)

    def stop(self) -> None:
        """Ask it to end now; its summary has what was measured so far."""
        self._process.terminate()

    def close(self) -> None:
        """Kill it, if it has not ended."""
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._file.unlink(missing_ok=True)


def take_turn(running: Running, load: Load, others: Sequence[Running] = ()) -> Sample:
    """Send the load to one contender, while the `others` run but should be idle."""
    before_s = sum(cpu_s(other.processes) for other in others)
    summary = LoadProcess(running, load).result()
    spent_s = sum(cpu_s(other.processes) for other in others) - before_s
    sample = sample_of(summary)
    if spent_s > _DISTURBING_SHARE * summary.seconds > 0:
        sample.measures["others_cpu_share"] = spent_s / summary.seconds
    return sample


def sample_of(summary: Summary, *, stopped: bool = False) -> Sample:
    """Return a run's measures and failures; a run that was stopped may be incomplete."""
    measures: Measures = {
        "requests_per_s": summary.requests_per_s,
        "output_tokens_per_s": summary.output_tokens_per_s,
        "generator_cpu_share": summary.own.cpu_share,
    }
    for name in ("ttft", "tpot", "itl", "e2e"):
        measures |= percentiles(f"{name}_ms", getattr(summary.latency_ms, name))
    for cost in summary.processes:
        measures |= costs(cost)
    failures = [
        f"{error.count} of {summary.sent} answers: {kind}: {error.first}"
        for kind, error in summary.errors.items()
    ]
    if not summary.completed and not failures and not stopped:
        failures.append("no answer was completed")
    if summary.interrupted and not stopped:
        failures.append("the run was stopped")
    failures += [f"{one.name}: {one.gone} processes died" for one in summary.processes if one.gone]
    return Sample(measures, failures)


def percentiles(name: str, spread: Spread | None) -> Measures:
    """Return the measures of a time in milliseconds; none if it was not measured."""
    if spread is None:
        return {}
    return {f"{name}.{p}": getattr(spread, p) for p in ("mean", "p50", "p90", "p99", "max")}


def costs(cost: Cost) -> Measures:
    """Return the measures of one kind of process."""
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
