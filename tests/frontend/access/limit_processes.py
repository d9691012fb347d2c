"""Real processes on one limiter directory. A program: it forks, which a test run must not.

``python limit_processes.py SCENARIO DIRECTORY`` prints one JSON object.
"""

import json
import mmap
import os
import random
import signal
import sys
import time
from pathlib import Path

from vgate.frontend.access.limiter import KeyLimits, LocalLimiter
from vgate.frontend.access.limiter.file import LimitFile

PROCESSES = 8
KILLS = 50
KILL_LIMIT = 30_000
_LONG_S = 3600.0


def now(call):
    """Return what a call of the local limiter returns: it never suspends."""
    try:
        call.send(None)
    except StopIteration as done:
        return done.value
    raise AssertionError


def admitted(limiter, key, limits, tokens=0):
    """Return the grant of a request, or None if it is refused."""
    grant = now(limiter.reserve(key, limits, tokens))
    return grant if grant.decision.allowed else None


def burst(directory):
    """2,000 attempts by 8 processes at once, on a limit of 100."""
    limits = KeyLimits(requests=100, window_s=_LONG_S, tokens_per_minute=10**6, concurrent=10**6)

    def work(limiter, counts, _number):
        for _ in range(2000 // PROCESSES):
            counts[0] += admitted(limiter, "k", limits, 10) is not None

    return {"admitted": sum(each[0] for each in _together(directory, work, 1))}


def keys(directory):
    """50 keys at once, the limit of each its number."""

    def work(limiter, counts, _number):
        attempts = [key for key in range(1, 51) for _ in range(key)]
        random.shuffle(attempts)
        for key in attempts:
            limits = KeyLimits(requests=key, window_s=_LONG_S)
            counts[key] += admitted(limiter, f"key {key}", limits) is not None

    per_process = _together(directory, work, 51)
    return {"admitted": [sum(counts) for counts in zip(*per_process, strict=True)]}


def concurrency(directory):
    """8 processes that hold a place for a moment: how many held one at the same time."""
    limits = KeyLimits(concurrent=3)
    held = _shared(PROCESSES)

    def work(limiter, counts, number):
        for _ in range(300):
            grant = admitted(limiter, "k", limits)
            if grant is not None:
                held[number] = 1
                counts[0] = max(counts[0], sum(held))
                counts[1] += 1
                held[number] = 0
                now(grant.settle())
            else:
                os.sched_yield()

    results = _together(directory, work, 2)
    return {
        "most_at_once": max(most for most, _ in results),
        "admitted": sum(admitted for _, admitted in results),
        "left": now(LocalLimiter(directory, PROCESSES).usage("k", limits)).concurrent,
    }


def kill(directory):
    """50 times, a process is killed in a tight loop while another one works."""
    limits = KeyLimits(
        requests=KILL_LIMIT, window_s=_LONG_S, tokens_per_minute=10**9, concurrent=10**6
    )
    survivor = LocalLimiter(directory, 0)
    counts = _shared(4)  # admitted, abandoned: as the survivor and as the others know it
    recounts = _count_recounts()
    for _ in range(KILLS):
        child = os.fork()
        if child == 0:
            _work_forever(LocalLimiter(directory, 1), limits, counts[2:])
        seen = counts[2]
        while counts[2] == seen:  # it is at work
            os.sched_yield()
        until = time.monotonic() + random.uniform(0, 0.003)
        while time.monotonic() < until:
            grant = admitted(survivor, "k", limits, 10)
            counts[0] += 1
            if random.random() < 0.5:
                now(grant.abandon())
                counts[1] += 1
            now(grant.settle())
        # Alone for a moment, it is in the critical section most of the time, not waiting for it.
        time.sleep(random.uniform(0.0005, 0.002))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        LocalLimiter(directory, 1).close()  # its successor
    before = now(survivor.usage("k", limits))
    while admitted(survivor, "k", limits):
        pass
    return {
        "known": counts[0] - counts[1] + counts[2] - counts[3],
        "counted": before.requests,
        "running": before.concurrent,
        "in_the_end": now(survivor.usage("k", limits)).requests,
        "recounts": recounts[0],
    }


def release(directory):
    """A process that holds all places is killed: how many are free at once, without a successor."""
    limits, survivor, counts = KeyLimits(concurrent=3), LocalLimiter(directory, 0), _shared(1)
    child = os.fork()
    if child == 0:
        limiter = LocalLimiter(directory, 1)
        while admitted(limiter, "k", limits):
            pass
        counts[0] = 1
        time.sleep(60)
    while not counts[0]:
        os.sched_yield()
    alive = admitted(survivor, "k", limits) is not None, now(survivor.usage("k", limits)).concurrent
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    first = now(survivor.usage("k", limits)).concurrent
    places = [admitted(survivor, "k", limits) is not None for _ in range(4)]
    return {"alive": alive, "first": first, "places": places}


def _work_forever(limiter, limits, counts):
    while True:
        grant = admitted(limiter, "k", limits, 10)
        counts[0] += 1
        if random.random() < 0.5:
            now(grant.abandon())
            counts[1] += 1
        now(grant.settle(5))


def _count_recounts():
    """Count how often a death inside the critical section is noticed."""
    recount, seen = LimitFile._recount, [0]

    def counting(file):
        seen[0] += 1
        recount(file)

    LimitFile._recount = counting
    return seen


def _together(directory, work, words):
    """Run `work` in all processes at the same moment; return each one's counts."""
    ready, go = os.pipe(), os.pipe()
    results, children = [], []
    for number in range(PROCESSES):
        counts = _shared(words)
        results.append(counts)
        child = os.fork()
        if child == 0:
            limiter = LocalLimiter(directory, number)
            os.write(ready[1], b".")
            os.read(go[0], 1)
            work(limiter, counts, number)
            os._exit(0)
        children.append(child)
    waiting = 0
    while waiting < PROCESSES:
        waiting += len(os.read(ready[0], PROCESSES))
    os.write(go[1], b"." * PROCESSES)
    for child in children:
        assert os.waitpid(child, 0)[1] == 0
    return [list(counts) for counts in results]


def _shared(words):
    return memoryview(mmap.mmap(-1, 8 * words)).cast("q")


if __name__ == "__main__":
    scenario = {each.__name__: each for each in (burst, keys, concurrency, kill, release)}[
        sys.argv[1]
    ]
    print(json.dumps(scenario(Path(sys.argv[2]))))
