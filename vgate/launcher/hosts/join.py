"""``vgate join``: makes this machine's engine a replica of another machine's server.

The server says what to serve; keys are exchanged, with a token that counts once. What was agreed is
kept in the state directory, so that the same command starts the engine again.
"""

import argparse
import hashlib
import http.client
import json
import re
import socket
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from vgate.commands.command import EXIT_USAGE, CommandError
from vgate.commands.text import note
from vgate.config import Config
from vgate.config.joined import token_hash, write_private
from vgate.config.links import is_loopback
from vgate.config.model import Model
from vgate.config.roles import split_address, topology
from vgate.config.schema import Batch, DryRun
from vgate.config.section import Section
from vgate.launcher.checks import Checked
from vgate.launcher.cli import refuse, serve
from vgate.wire.curve import public_of
from vgate.wire.link_keys import (
    ALLOWED,
    ENGINE_KEY,
    LinkKeyError,
    allow_only,
    key_of,
    make_keys,
    read_key,
)

_PORT = 8000
_ANSWER_S = 15.0


class _Terms(Section, frozen=True):
    """What the server says: what to serve, and the public key of its frontends."""

    model: Model
    batch: Batch
    dry_run: DryRun
    backend: str
    public_key: str


class _Joined(Section, frozen=True):
    """What is kept."""

    url: str
    token_sha256: str
    terms: _Terms


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Run a replica of the model that another machine's server serves. `vgate engines invite` "
        "there prints the whole command. Later the same command, or the one without --token, "
        "starts the replica again."
    )
    add = parser.add_argument
    add("server", metavar="HOST", help="the server, such as https://gpu-1:8000")
    add("--token", help="from `vgate engines invite`; it counts once")
    add("--fingerprint", metavar="SHA256", help="of the server's certificate")
    add("--plain-http", action="store_true", help="send the token without encryption")
    add("--listen", metavar="tcp://HOST:PORT", help="where frontends connect (engine_link.listen)")
    add("--address", metavar="HOST", help="this machine's address for the server, if not its own")
    add("--name", help="this machine's name there (default: its host name)")


def run(options: argparse.Namespace, config: Config) -> int:
    """Join, unless that is done, and serve until a signal comes; return the exit status."""
    if options.listen:
        link = msgspec.structs.replace(config.engine_link, listen=options.listen)
        config = msgspec.structs.replace(config, engine_link=link)
    port = split_address(config.engine_link.listen)[1]
    path = config.server.state_path / f"joined-{port}.json"
    url, joined = _url(options.server), _kept(path)
    hashed = token_hash(options.token) if options.token else None
    if joined is None or joined.url != url or hashed not in (None, joined.token_sha256):
        if hashed is None:
            text = f"this machine has not joined {url}: `vgate engines invite` there gives a token"
            raise CommandError(text, EXIT_USAGE)
        _check_scheme(url, options)
        _make_parent(path)
        terms = _terms(_post(url, options, {"token": options.token}))
        found = _checked(config, terms)
        if problems := found.wrong + found.in_the_way:
            return refuse(problems, EXIT_USAGE)
        _agree(url, options, found, terms)
        joined = _Joined(url=url, token_sha256=hashed, terms=terms)
        _keep(path, joined)
    found = _checked(config, joined.terms)
    if problems := found.wrong + found.in_the_way:
        return refuse(problems, EXIT_USAGE)
    return serve(found, joined.terms.backend, "engine")


def _checked(config: Config, terms: _Terms) -> Checked:
    """Return the configuration of the engine, whose keys are made where they are missing."""
    try:
        make_keys(config.link_keys)
        # A machine may have joined several servers, each on a port of its own.
        port = split_address(config.engine_link.listen)[1]
        allow_only(config.link_keys / ALLOWED, key_of(terms.public_key), f"joined-{port}")
    except LinkKeyError as error:
        raise CommandError(str(error)) from None
    model = msgspec.structs.replace(terms.model, replicas="auto", devices=None)
    config = msgspec.structs.replace(
        config,
        model=model,
        additional_models=[],
        engines=[],
        batch=terms.batch,
        dry_run=terms.dry_run,
    )
    return Checked(config, terms.backend, "engine")


def _agree(url: str, options: argparse.Namespace, found: Checked, terms: _Terms) -> None:
    """Tell the server where the engines are."""
    host = options.address or _own_address(url)
    engines = topology(found.config, "", "engine", found.gpus)
    ports = [split_address(engine.address)[1] for engine in engines]
    name = re.sub(r"[^A-Za-z0-9._-]", "-", options.name or socket.gethostname())
    key = public_of(read_key(found.config.link_keys / ENGINE_KEY))
    where = f"[{host}]" if ":" in host else host
    body = {
        "token": options.token,
        "name": name,
        "addresses": [f"tcp://{where}:{port}" for port in ports],
        "public_key": key.hex(),
    }
    _post(url, options, body)
    note(f"{name} has joined {url} with {terms.model.model_id}")


def _url(given: str) -> str:
    """Return the server's URL; HTTPS is meant where nothing is said."""
    text = given.rstrip("/").removesuffix("/v1")
    parts = urlsplit(text if "://" in text else f"https://{text}")
    try:
        port = parts.port or _PORT
    except ValueError:
        port = 0
    if parts.scheme not in ("http", "https") or not parts.hostname or not port:
        raise CommandError(f"`{given}` is no server such as https://gpu-1:8000", EXIT_USAGE)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}:{port}"


def _check_scheme(url: str, options: argparse.Namespace) -> None:
    parts = urlsplit(url)
    local = is_loopback(parts.hostname or "")
    if parts.scheme == "http" and not (local or options.plain_http):
        raise CommandError(
            f"{url} is not encrypted, so others could read the token and send another model: use "
            "https (server.tls there), or say --plain-http if the network is yours",
            EXIT_USAGE,
        )


def _post(url: str, options: argparse.Namespace, body: dict[str, Any]) -> bytes:
    """Return what the server answers, whose certificate is checked before anything is sent."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or _PORT
    connection: http.client.HTTPConnection
    if parts.scheme == "http":
        connection = http.client.HTTPConnection(host, port, timeout=_ANSWER_S)
    else:
        context = ssl.create_default_context()
        if options.fingerprint:
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = http.client.HTTPSConnection(host, port, timeout=_ANSWER_S, context=context)
    try:
        connection.connect()
        _check_certificate(connection, options.fingerprint)
        headers = {"Content-Type": "application/json"}
        connection.request("POST", "/engines/join", json.dumps(body), headers)
        response = connection.getresponse()
        text = response.read()
    except ssl.SSLCertVerificationError as error:
        why = f"the certificate of {url} is not trusted ({error.verify_message})"
        raise CommandError(f"{why}: --fingerprint names the right one") from None
    except (OSError, http.client.HTTPException) as error:
        raise CommandError(f"cannot reach {url}: {error}") from None
    finally:
        connection.close()
    if response.status != http.client.OK:
        raise CommandError(f"{url} answers {response.status}: {_message(text)}")
    return text


def _check_certificate(connection: http.client.HTTPConnection, fingerprint: str | None) -> None:
    if fingerprint is None or not isinstance(connection.sock, ssl.SSLSocket):
        return
    found = hashlib.sha256(connection.sock.getpeercert(binary_form=True) or b"").hexdigest()
    if found != fingerprint.replace(":", "").lower():
        raise CommandError(f"the server's certificate has the fingerprint {found}, not this one")


def _message(text: bytes) -> str:
    try:
        return str(json.loads(text)["error"]["message"])
    except (ValueError, LookupError, TypeError):
        return "it is no V-Gate server, or another version"


def _terms(text: bytes) -> _Terms:
    try:
        return msgspec.json.decode(text, type=_Terms)
    except msgspec.DecodeError as error:
        raise CommandError(f"the server is another version of V-Gate: {error}") from None


def _own_address(url: str) -> str:
    """Return this machine's address on the way to the server."""
    parts = urlsplit(url)
    try:
        (family, *_, address), *_ = socket.getaddrinfo(
            parts.hostname, parts.port, type=socket.SOCK_DGRAM
        )
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError as error:
        raise CommandError(f"cannot find this machine's address: {error}; --address") from None


def _kept(path: Path) -> _Joined | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Joined)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise CommandError(f"cannot read {path}: {error}; remove it and join again") from None


def _make_parent(path: Path) -> None:
    """Make the state directory, before the token is used up."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from None


def _keep(path: Path, joined: _Joined) -> None:
    try:
        write_private(path, msgspec.json.encode(joined))
    except OSError as error:
        raise _cannot_write(path, error) from None


def _cannot_write(path: Path, error: OSError) -> CommandError:
    return CommandError(f"cannot write {path}: {error.strerror}; set server.state_dir")
