"""A network between namespaces whose links are slow, lose packets, or are cut.

Run as a program, by `tests.e2e.network`: it makes a TAP device for each host, forwards frames
between them, and takes one link's properties from each line of standard input. So the kernel need
not have netem.
"""

import contextlib
import fcntl
import heapq
import itertools
import json
import os
import random
import selectors
import struct
import sys
import time

_TUNSETIFF = 0x400454CA
_IFF_TAP, _IFF_NO_PI = 0x0002, 0x1000
_MOST_FRAME = 65_536


def mac_of(host: int) -> str:
    return f"02:00:00:00:00:{host:02x}"


def tap(name: str) -> int:
    """Make a TAP device and return its descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", name.encode(), _IFF_TAP | _IFF_NO_PI)
    fcntl.ioctl(descriptor, _TUNSETIFF, request)
    return descriptor


class Switch:
    """Forwards frames; `links` has the properties of pairs of hosts that aren't perfect."""

    def __init__(self, names: list[str]) -> None:
        self.taps = [tap(name) for name in names]
        self.links: dict[tuple[int, int], dict[str, float]] = {}
        self._queue: list[tuple[float, int, int, bytes]] = []
        self._numbers = itertools.count()

    def run(self) -> None:
        selector = selectors.DefaultSelector()
        for host, descriptor in enumerate(self.taps):
            selector.register(descriptor, selectors.EVENT_READ, host)
        selector.register(sys.stdin.fileno(), selectors.EVENT_READ, None)
        print("ready", flush=True)
        while True:
            wait_s = max(0.0, self._queue[0][0] - time.monotonic()) if self._queue else None
            for key, _ in selector.select(wait_s):
                if key.data is None:
                    line = sys.stdin.readline()
                    if not line:
                        return
                    one, other, link = json.loads(line)
                    self.links[one, other] = self.links[other, one] = link
                    print("done", flush=True)
                else:
                    self._read(key.data)
            now = time.monotonic()
            while self._queue and self._queue[0][0] <= now:
                _, _, to, frame = heapq.heappop(self._queue)
                self._write(to, frame)

    def _read(self, host: int) -> None:
        while True:
            try:
                frame = os.read(self.taps[host], _MOST_FRAME)
            except OSError:
                return
            wanted = frame[:6]
            for to in range(len(self.taps)):
                if to != host and (wanted[0] & 1 or wanted[5] == to):
                    self._forward(host, to, frame)

    def _forward(self, host: int, to: int, frame: bytes) -> None:
        link = self.links.get((host, to), {})
        if link.get("cut") or random.random() < link.get("loss", 0.0):
            return
        if delay_s := link.get("delay_s", 0.0):
            due = time.monotonic() + delay_s
            heapq.heappush(self._queue, (due, next(self._numbers), to, frame))
        else:
            self._write(to, frame)

    def _write(self, to: int, frame: bytes) -> None:
        with contextlib.suppress(OSError):  # the device is down, or full: a lost packet
            os.write(self.taps[to], frame)


if __name__ == "__main__":
    Switch(sys.argv[1:]).run()
