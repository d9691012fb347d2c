"""The engine's place among the processes of its machine: it works long, and lets others in between.

On a machine with few cores an engine takes all of one, and what it sends has still to pass its
ZeroMQ thread, a frontend's, and the frontend itself, each of which sleeps until then. Since Linux
6.6 (EEVDF) a thread that wakes up interrupts another only if its deadline is earlier, and with
equal time slices it often is not: a token waited half a millisecond for the core. A thread that
asks for a longer slice has a later deadline, and gets the same share of the processor.
"""

from __future__ import annotations

import ctypes
import platform
import struct
import sys
from typing import NamedTuple

# Of sched_setattr(2) and sched_getattr(2), for which the C library has no functions.
_SYSCALLS = {"x86_64": (314, 315), "aarch64": (274, 275)}
# size, policy, flags, nice, priority, runtime, deadline, period (linux/sched/types.h).
_STRUCT = struct.Struct("=IIQiIQQQ")
_SCHED_OTHER = 0
# 0.7 to 3 ms are usual, by the number of cores; up to 100 may be asked for.
_SLICE_NS = 10_000_000


class Attributes(NamedTuple):
    """How a thread is scheduled; `slice_ns` is 0 before Linux 6.12."""

    policy: int
    flags: int
    nice: int
    slice_ns: int


def lengthen_slice() -> bool:
    """Ask for a long time slice for the calling thread; False if there is no such thing here.

    Before Linux 6.12 the kernel takes the call and does nothing.
    """
    attributes = attributes_of_thread()
    # Whoever chose another policy knows better.
    if attributes is None or attributes.policy != _SCHED_OTHER:
        return False
    set_attributes, _ = _SYSCALLS[platform.machine()]
    policy, flags, nice, _ = attributes
    wanted = _STRUCT.pack(_STRUCT.size, policy, flags, nice, 0, _SLICE_NS, 0, 0)
    return not ctypes.CDLL(None).syscall(set_attributes, 0, wanted, 0)


def attributes_of_thread() -> Attributes | None:
    """Return how the calling thread is scheduled; None if the system can't be asked."""
    calls = _SYSCALLS.get(platform.machine())
    if sys.platform != "linux" or calls is None:
        return None
    _, get_attributes = calls
    buffer = ctypes.create_string_buffer(_STRUCT.size)
    if ctypes.CDLL(None).syscall(get_attributes, 0, buffer, _STRUCT.size, 0):
        return None
    _, policy, flags, nice, _, slice_ns, _, _ = _STRUCT.unpack(buffer.raw)
    return Attributes(policy, flags, nice, slice_ns)
