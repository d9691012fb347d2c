"""Hosts as network namespaces with their own addresses, and links that can be spoilt."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Self

from tests.e2e.instance import ROOT, Instance
from tests.e2e.switch import mac_of

NETWORK = "10.77.0"


def missing() -> str | None:
    """Return why there can be no network of namespaces here; None if there can."""
    if os.geteuid():
        return "network namespaces need root"
    if shutil.which("ip") is None:
        return "network namespaces need ip (iproute2)"
    if not os.access("/dev/net/tun", os.R_OK | os.W_OK):
        return "there is no /dev/net/tun"
    return None


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


class Network:
    """Namespaces that reach each other and nothing else; a context manager.

    Args:
        count: How many hosts.
        names: Names that all of them can resolve, with their hosts.
    """

    def __init__(self, count: int, names: dict[str, list[int]] | None = None) -> None:
        self._spaces = [f"vgate-{os.getpid()}-{host}" for host in range(count)]
        self._taps = [f"vg{os.getpid()}.{host}" for host in range(count)]
        self._names = names or {}

    def address(self, host: int) -> str:
        return f"{NETWORK}.{host + 1}"

    def inside(self, host: int) -> list[str]:
        """Return what comes before a command that runs on a host."""
        return ["ip", "netns", "exec", self._spaces[host]]

    def link(self, one: int, other: int, **properties: float) -> None:
        """Set a link's `delay_s` in each direction, `loss` of packets, or that it is `cut`."""
        assert self._switch.stdin is not None
        assert self._switch.stdout is not None
        self._switch.stdin.write(json.dumps([one, other, properties]) + "\n")
        self._switch.stdin.flush()
        assert self._switch.stdout.readline() == "done\n"

    def __enter__(self) -> Self:
        self._switch = subprocess.Popen(
            [sys.executable, "-m", "tests.e2e.switch", *self._taps],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._switch.stdout is not None
        assert self._switch.stdout.readline() == "ready\n"
        for host, (space, tap) in enumerate(zip(self._spaces, self._taps, strict=True)):
            _ip("netns", "add", space)
            _ip("link", "set", tap, "address", mac_of(host), "netns", space)
            inside = ["-n", space]
            _ip(*inside, "link", "set", "lo", "up")
            _ip(*inside, "address", "add", f"{self.address(host)}/24", "dev", tap)
            _ip(*inside, "link", "set", tap, "up")
            self._write_hosts(space)
        return self

    def _write_hosts(self, space: str) -> None:
        """Write what `ip netns exec` shows as /etc/hosts."""
        directory = Path("/etc/netns", space)
        directory.mkdir(parents=True, exist_ok=True)
        lines = [f"{self.address(h)} {name}" for name, hosts in self._names.items() for h in hosts]
        (directory / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))

    def __exit__(self, *_exception: object) -> None:
        for space in self._spaces:
            subprocess.run(["ip", "netns", "delete", space], check=False, capture_output=True)
            shutil.rmtree(Path("/etc/netns", space), ignore_errors=True)
        assert self._switch.stdin is not None
        assert self._switch.stdout is not None
        self._switch.stdin.close()
        self._switch.wait(10)
        self._switch.stdout.close()


class Host(Instance):
    """An instance on one of the hosts, in a role."""

    def __init__(
        self, network: Network, host: int, role: str, run_dirs: Path, **settings: Any
    ) -> None:
        super().__init__(run_dirs, dry_run=True, **settings)
        self.host = host
        self._inside = network.inside(host)
        self._role = role

    def command(self) -> list[str]:
        return [*self._inside, sys.executable, "-m", "vgate.launcher", self._role, "--dry-run"]
