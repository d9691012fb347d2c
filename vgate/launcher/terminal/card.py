"""What a new server says of itself: where it is, what it serves, and a command to try."""

import json
import shlex
import socket
from ipaddress import ip_address

from vgate.config import Config
from vgate.config.model import Model
from vgate.config.models.task import known_task
from vgate.config.schema import Server
from vgate.wire.control import EngineReady

# Addresses for documentation (RFC 5737, RFC 3849): finding the way there sends nothing.
_ELSEWHERE = {socket.AF_INET: "192.0.2.1", socket.AF_INET6: "2001:db8::1"}
_TASKS = {"generate": "", "embed": "embeddings, ", "classify": "classes or scores, "}
_PATHS = {"embed": "embeddings", "classify": "classify"}


def server_url(server: Server) -> str:
    """Return the server's URL as others use it, or this machine if it serves no others."""
    return server.url_at(_reached_at(server.host))


def _reached_at(host: str) -> str:
    """Return the address of a host; if that means all of the machine's, the one in its network."""
    try:
        if not ip_address(host).is_unspecified:
            return host
    except ValueError:  # a name
        return host
    families = [socket.AF_INET, socket.AF_INET6] if ":" in host else [socket.AF_INET]
    for family in families:
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((_ELSEWHERE[family], 9))
                return str(probe.getsockname()[0])
        except OSError:  # no network
            continue
    return "::1" if ":" in host else "127.0.0.1"


def describe(model: Model, ready: EngineReady) -> str:
    """Return what an engine of a model serves, in words."""
    others = "".join(f", {name}" for name in [*model.served_names[1:], *model.adapter_names])
    task = _TASKS[ready.task]
    room = "" if task else f", KV cache {ready.kv_cache_tokens:,} tokens"
    return f"{model.name}{others}: {task}context {ready.max_model_len:,} tokens{room}"


def try_command(config: Config, url: str, ready: EngineReady | None) -> list[str]:
    """Return a command that the main model answers, in lines; `ready`: what its engine says."""
    model = config.model
    path, request = "chat/completions", {"messages": [{"role": "user", "content": "Hello!"}]}
    task = ready.task if ready else known_task(model)
    if task in _PATHS:
        path, request = _PATHS[task], {"input": "Hello!"}  # type: ignore[dict-item]
    elif ready and not ready.chat:
        path, request = "completions", {"prompt": "Once upon a time", "max_tokens": 20}  # type: ignore[dict-item]
    options = _tls_options(config.server, url)
    lines = [f"curl{options} {url}/v1/{path}"]
    if config.security.enabled:
        lines.append('-H "Authorization: Bearer $VGATE_API_KEY"')
    lines.append("-H 'Content-Type: application/json'")
    lines.append(f"-d {shlex.quote(json.dumps({'model': model.name, **request}))}")
    return lines


def _tls_options(server: Server, url: str) -> str:
    if not server.tls.enabled:
        return ""
    from vgate.config.tls import is_trusted

    host = url.partition("://")[2].rpartition(":")[0].strip("[]")
    options = "" if is_trusted(server.tls, host) else " -k"
    return options + (" --cert CERTIFICATE --key KEY" if server.tls.client_ca else "")
