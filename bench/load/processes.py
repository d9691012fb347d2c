"""What the watched processes cost, read from /proc (proc_pid_stat(5))."""

import os
from pathlib import Path

import msgspec

from bench.load.options import UsageError

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Counted from the end of the command's name, which may itself contain blanks and brackets.
_UTIME, _STIME, _STARTTIME = 11, 12, 19


class Reading(msgspec.Struct, frozen=True):
    """A process at one moment."""

    cpu_s: float
    peak_rss_mib: float
    started: int


class Cost(msgspec.Struct, frozen=True):
    """What one name's processes spent over the measured time."""

    name: str
    cpu_s: float
    peak_rss_mib: float
    gone: int
    cpu_us_per_request: float | None = None
    cpu_us_per_output_token: float | None = None


def read_process(pid: int, proc: Path = Path("/proc")) -> Reading | None:
    """Return a reading, or None if there is no such process."""
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        status = (proc / str(pid) / "status").read_text()
    except OSError:
        return None
    peak_kib = 0
    for line in status.splitlines():
        if line.startswith("VmHWM:"):
            peak_kib = int(line.split()[1])
    ticks = int(fields[_UTIME]) + int(fields[_STIME])
    return Reading(ticks / _TICKS_PER_S, peak_kib / 1024, int(fields[_STARTTIME]))


class Watch:
    """The watched processes between two moments; a name may stand for several."""

    def __init__(self, named: tuple[tuple[str, int], ...], proc: Path = Path("/proc")) -> None:
        self._named = named
        self._proc = proc
        self._before: dict[int, Reading] = {}
        for name, pid in named:
            reading = read_process(pid, proc)
            if reading is None:
                raise UsageError(f"--pid {name}={pid}: there is no such process")
            self._before[pid] = reading

    def costs(self, requests: int, output_tokens: int) -> list[Cost]:
        """Return what each name cost since the watch began, also by request and by token."""
        costs = []
        for name in dict.fromkeys(name for name, _ in self._named):
            cpu_s = peak = 0.0
            gone = 0
            for pid in (pid for other, pid in self._named if other == name):
                before, after = self._before[pid], read_process(pid, self._proc)
                if after is None or after.started != before.started:
                    gone += 1
                    continue
                cpu_s += after.cpu_s - before.cpu_s
                peak += after.peak_rss_mib
            costs.append(
                Cost(
                    name=name,
                    cpu_s=round(cpu_s, 3),
                    peak_rss_mib=round(peak, 1),
                    gone=gone,
                    cpu_us_per_request=_each_us(cpu_s, requests, gone),
                    cpu_us_per_output_token=_each_us(cpu_s, output_tokens, gone),
                )
            )
        return costs


def _each_us(cpu_s: float, count: int, gone: int) -> float | None:
    # With a process gone its share is unknown, and a part of the cost must not pass for it.
    return None if gone or not count else round(cpu_s * 1e6 / count, 2)
