"""What the watched processes use: CPU clocks (clock_getcpuclockid(3)) and proc_pid_stat(5)."""

import os
import time
from pathlib import Path

import msgspec

from bench.load.options import UsageError

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
# Counted from the end of the command's name, which may itself contain blanks and brackets.
_PPID, _UTIME, _STIME, _STARTTIME = 1, 11, 12, 19
_PROC = Path("/proc")


class Reading(msgspec.Struct, frozen=True):
    """A process at one moment. `user_s` and `kernel_s` are in ticks of 10 ms, `cpu_s` is exact."""

    cpu_s: float
    user_s: float
    kernel_s: float
    rss_mib: float
    peak_rss_mib: float
    started: int
    parent: int


class Cost(msgspec.Struct, frozen=True):
    """What one name's processes spent over the measured time.

    `user_share` is the part of the CPU time outside the kernel, as the kernel's ticks sampled it.
    """

    name: str
    cpu_s: float
    peak_rss_mib: float
    gone: int
    rss_mib: float = 0.0
    user_share: float | None = None
    cpu_us_per_request: float | None = None
    cpu_us_per_output_token: float | None = None


def memory_kib(pid: int) -> dict[str, int]:
    """Return a process's memory by kind: such as all of it (Rss), and its share of that (Pss)."""
    text = (_PROC / str(pid) / "smaps_rollup").read_text()
    fields = (line.split(":", 1) for line in text.splitlines()[1:])
    return {name: int(value.split()[0]) for name, value in fields}


def read_process(pid: int, proc: Path = _PROC) -> Reading | None:
    """Return a reading, or None if no such process."""
    try:
        fields = (proc / str(pid) / "stat").read_text().rpartition(")")[2].split()
        status = (proc / str(pid) / "status").read_text()
    except OSError:
        return None
    mib = {"VmHWM": 0.0, "VmRSS": 0.0}
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name in mib:
            mib[name] = int(value.split()[0]) / 1024
    user_s, kernel_s = (int(fields[which]) / _TICKS_PER_S for which in (_UTIME, _STIME))
    exact_s = _cpu_clock_s(pid) if proc == _PROC else None
    return Reading(
        cpu_s=user_s + kernel_s if exact_s is None else exact_s,
        user_s=user_s,
        kernel_s=kernel_s,
        rss_mib=mib["VmRSS"],
        peak_rss_mib=mib["VmHWM"],
        started=int(fields[_STARTTIME]),
        parent=int(fields[_PPID]),
    )


def _cpu_clock_s(pid: int) -> float | None:
    """Return the CPU time of all threads that a process has or had, to the nanosecond.

    Its clock has a number that is made of the process id (MAKE_PROCESS_CPUCLOCK in the kernel's
    include/linux/posix-timers_types.h); Python has no name for it.
    """
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return None


class Watch:
    """The watched processes between two moments; a name may stand for several."""

    def __init__(self, named: tuple[tuple[str, int], ...], proc: Path = _PROC) -> None:
        self._named = named
        self._proc = proc
        self._before: dict[int, Reading] = {}
        for name, pid in named:
            reading = read_process(pid, proc)
            if reading is None:
                raise UsageError(f"--pid {name}={pid}: no such process")
            self._before[pid] = reading

    def costs(self, requests: int, output_tokens: int) -> list[Cost]:
        """Return what each name cost since the watch began, also by request and by token."""
        costs = []
        for name in dict.fromkeys(name for name, _ in self._named):
            cpu_s = user_s = kernel_s = rss = peak = 0.0
            gone = 0
            for pid in (pid for other, pid in self._named if other == name):
                before, after = self._before[pid], read_process(pid, self._proc)
                if after is None or after.started != before.started:
                    gone += 1
                    continue
                cpu_s += after.cpu_s - before.cpu_s
                user_s += after.user_s - before.user_s
                kernel_s += after.kernel_s - before.kernel_s
                rss += after.rss_mib
                peak += after.peak_rss_mib
            ticks_s = user_s + kernel_s
            costs.append(
                Cost(
                    name=name,
                    cpu_s=round(cpu_s, 3),
                    peak_rss_mib=round(peak, 1),
                    gone=gone,
                    rss_mib=round(rss, 1),
                    user_share=round(user_s / ticks_s, 3) if ticks_s else None,
                    cpu_us_per_request=_each_us(cpu_s, requests, gone),
                    cpu_us_per_output_token=_each_us(cpu_s, output_tokens, gone),
                )
            )
        return costs


def _each_us(cpu_s: float, count: int, gone: int) -> float | None:
    # With a process gone its share is unknown, and a part of the cost must not pass for it.
    return None if gone or not count else round(cpu_s * 1e6 / count, 2)
