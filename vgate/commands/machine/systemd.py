"""What systemd is given and told: the unit of a V-Gate, and when it serves.

The unit says what is started, what it may write, and what it can't do.
"""

import contextlib
import os
import re
import socket
from pathlib import Path

import msgspec

MADE_BY = "# Made by `vgate service install`; `vgate service remove` deletes it."

_PLAIN_WORD = re.compile(r"[\w./:@%+,=-]+")
# ProtectClock and PrivateDevices would take the GPU away, MemoryDenyWriteExecute the compilers.
_HARDENED = """\
NoNewPrivileges=yes
CapabilityBoundingSet={capability}
AmbientCapabilities={capability}
ProtectSystem=strict
ProtectHome=read-only
PrivateTmp=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
UMask=0077
"""
_UNIT = """\
{made_by}
[Unit]
Description=V-Gate, an OpenAI-compatible LLM server
Wants=network-online.target
After=network-online.target

[Service]
# Started when requests are served. A first start installs vLLM and downloads the model;
# supervision.load_timeout_s limits the rest.
Type=notify
NotifyAccess=main
TimeoutStartSec=infinity
ExecStart={start}
ExecReload={program} reload --run-dir {run_dir}
WorkingDirectory={folder}
{environment}
RuntimeDirectory={name}
RuntimeDirectoryMode=0700
StateDirectory={name}
StateDirectoryMode=0700
# SIGTERM goes to the launcher alone, which lets running requests finish.
KillMode=mixed
TimeoutStopSec={stop_s:.0f}
Restart=on-failure
RestartSec=5
# Wrong settings stay wrong.
RestartPreventExitStatus=2
{limits}
[Install]
WantedBy={target}
"""


class Unit(msgspec.Struct, frozen=True, kw_only=True):
    """What a unit is made from.

    Attributes:
        user: Whom a unit of the system runs as; empty for a unit of a user.
        folder: What relative paths in the configuration are relative to.
        writable: What it may write besides its state and its run directory.
    """

    name: str
    program: Path
    config: Path | None
    user: str
    folder: Path
    port: int
    drain_s: float
    writable: list[Path] = []
    variables: dict[str, str] = {}

    def text(self) -> str:
        """Return the file."""
        run_dir = f"%t/{self.name}"
        start = quoted(str(self.program))
        if self.config is not None:
            start += f" --config {quoted_argument(str(self.config))}"
        variables = {"VGATE_SERVER__RUN_DIR": run_dir, **self.variables}
        if self.user:
            # The caches of models and compilers are under it; the true one is read-only.
            variables["HOME"] = f"%S/{self.name}"
        return _UNIT.format(
            made_by=MADE_BY,
            name=self.name,
            start=start,
            program=quoted(str(self.program)),
            run_dir=run_dir,
            folder=escaped(str(self.folder)),
            environment="\n".join(f"Environment={_assigned(*of)}" for of in variables.items()),
            # Beyond the draining, the processes end.
            stop_s=self.drain_s + 30,
            limits=self._limits(),
            target="multi-user.target" if self.user else "default.target",
        )

    def _limits(self) -> str:
        if not self.user:
            return "NoNewPrivileges=yes\nUMask=0077\n"
        capability = "CAP_NET_BIND_SERVICE" if self.port < 1024 else ""
        paths = "".join(f"ReadWritePaths={quoted(f'-{path}')}\n" for path in self.writable)
        return f"User={self.user}\n{_HARDENED.format(capability=capability)}{paths}"


def escaped(text: str) -> str:
    """Return a text without systemd's specifiers, such as %h."""
    return text.replace("%", "%%")


def quoted(text: str) -> str:
    """Return a word of a list as systemd reads it; systemd.syntax(7) has the rules."""
    word = escaped(text)
    if _PLAIN_WORD.fullmatch(word):
        return word
    inner = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{inner}"'


def quoted_argument(text: str) -> str:
    """Return a word of a command line, in which systemd would replace variables."""
    return quoted(text).replace("$", "$$")


def notify(state: str) -> None:
    """Tell systemd, or who else started this process and wants to know; sd_notify(3)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with (
        contextlib.suppress(OSError),  # it has no use for an answer, and neither has the service
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as out,
    ):
        out.sendto(state.encode(), address.replace("@", "\0", 1))


def _assigned(name: str, value: str) -> str:
    inner = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{name}={inner}"'
