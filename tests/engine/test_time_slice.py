"""The engine's time slice, in threads of their own so that this process keeps its own."""

from __future__ import annotations

import os
import platform
import threading

import pytest

from vgate.engine import time_slice
from vgate.engine.time_slice import lengthen_slice

KERNEL = tuple(int(part) for part in platform.release().split("-")[0].split(".")[:2])
modern = pytest.mark.skipif(KERNEL < (6, 12), reason="Linux before 6.12 has one slice for all")


def in_a_thread(work):
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def own_slice_ns():
    return time_slice.attributes_of_thread().slice_ns


@modern
def test_the_calling_thread_gets_a_longer_slice_and_keeps_the_rest():
    def work():
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 3)
        before = time_slice.attributes_of_thread()
        assert lengthen_slice()
        return before, time_slice.attributes_of_thread()

    before, after = in_a_thread(work)
    assert after.slice_ns > before.slice_ns
    assert (after.policy, after.nice, after.flags) == (before.policy, 3, before.flags)


@modern
def test_other_threads_keep_theirs():
    before = own_slice_ns()
    assert in_a_thread(lengthen_slice)
    assert own_slice_ns() == before


def test_a_policy_that_somebody_chose_stays():
    def work():
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        return lengthen_slice(), os.sched_getscheduler(0)

    assert in_a_thread(work) == (False, os.SCHED_BATCH)


def test_a_machine_without_it_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "machine", lambda: "riscv64")
    assert not in_a_thread(lengthen_slice)
