"""The server under test: its address, and whether it may be loaded."""

import ipaddress
import socket
import ssl
from urllib.parse import urlsplit

import msgspec

from bench.load.options import UsageError


class Target(msgspec.Struct, frozen=True):
    """Where the server listens; `prefix` is the part of its paths before `/v1`."""

    host: str
    port: int
    tls: bool
    prefix: str
    addresses: tuple[str, ...]

    @property
    def authority(self) -> str:
        """The value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    def tls_context(self) -> ssl.SSLContext | None:
        """Return the TLS context, or None without TLS."""
        return ssl.create_default_context() if self.tls else None


def resolve(url: str, *, allow_remote: bool) -> Target:
    """Return the target of a URL.

    Raises:
        UsageError: It is not an http(s) URL, has no address, or is on another machine without
            permission.
    """
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port
    except ValueError as error:
        raise UsageError(f"{url}: {error}") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageError(f"{url}: not an http:// or https:// URL")
    if parts.username is not None:
        raise UsageError("credentials do not belong in the URL; use --api-key or --header")
    tls = parts.scheme == "https"
    port = port or (443 if tls else 80)
    try:
        found = socket.getaddrinfo(parts.hostname, port, type=socket.SOCK_STREAM)
    except OSError as error:
        raise UsageError(f"cannot resolve {parts.hostname}: {error.strerror}") from None
    addresses = tuple(dict.fromkeys(str(entry[4][0]) for entry in found))
    remote = [name for name in addresses if not ipaddress.ip_address(name).is_loopback]
    if remote and not allow_remote:
        raise UsageError(
            f"{parts.hostname} ({remote[0]}) is not this machine; --allow-remote permits loading it"
        )
    prefix = parts.path.rstrip("/").removesuffix("/v1")
    return Target(parts.hostname, port, tls, prefix, addresses)


def request_head(method: str, target: Target, path: str, headers: list[tuple[str, str]]) -> bytes:
    """Return a request's head, up to and without its Content-Length."""
    lines = [f"{method} {target.prefix}{path} HTTP/1.1", f"Host: {target.authority}"]
    for name, value in headers:
        if not (name and value.isprintable() and name.isprintable()) or " " in name:
            raise UsageError(f"not a header: {name!r}")
        lines.append(f"{name}: {value}")
    return "\r\n".join([*lines, ""]).encode()
