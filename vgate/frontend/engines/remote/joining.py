"""Hosts that join this server with their engines, and leave it: the port `services.Hosts`."""

import asyncio
import hashlib
import ssl
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from vgate.config import Runtime
from vgate.config.joined import JoinedEngine, JoinedFile, JoinError
from vgate.errors import InvalidRequestError, ModelNotFoundError
from vgate.wire.link_keys import FRONTEND_PUBLIC, LinkKeyError, make_keys, read_key

_Result = TypeVar("_Result")
# What is of one machine only: how many engines it runs, and on which GPUs.
_OWN = ("replicas", "devices")


class Joining:
    """Invites hosts, and takes them up; every frontend follows the file."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._config = runtime.config
        self._file = JoinedFile(runtime.config)

    async def invite(self, model: str | None, for_s: float) -> dict[str, Any]:
        """Return a token for one host, and what it needs to know to connect."""
        names = {name: each.name for each in self._config.all_models for name in each.served_names}
        if model is not None and model not in names:
            message = f"there is no model `{model}`; served: {', '.join(names)}"
            raise ModelNotFoundError(message, param="model")
        name = names[model or self._config.model.name]

        def make() -> str:
            make_keys(self._config.link_keys)
            return self._file.invite(name, for_s)

        token, server = await _run(make), self._config.server
        return {
            "token": token,
            "model": name,
            "expires_at": int(time.time() + for_s),
            "https": server.tls.enabled,
            "certificate_sha256": _fingerprint(server.tls.certificate),
            "port": server.port,
            "is_local": server.is_local,
        }

    async def settings(self, token: str) -> dict[str, Any]:
        """Return what a host needs to serve the model that a token is for."""
        invitation = await _run(lambda: self._file.invitation(token))
        models = {each.name: each for each in self._config.all_models}
        if (model := models.get(invitation.model)) is None:
            message = f"the token is for `{invitation.model}`, which is served no more"
            raise InvalidRequestError(message)
        section = msgspec.to_builtins(model)
        key = await _run(lambda: read_key(self._config.link_keys / FRONTEND_PUBLIC))
        return {
            "model": {name: value for name, value in section.items() if name not in _OWN},
            "batch": msgspec.to_builtins(self._config.batch),
            "dry_run": msgspec.to_builtins(self._config.dry_run),
            "backend": self._runtime.backend,
            "public_key": key.hex(),
        }

    async def join(self, token: str, name: str, addresses: list[str], public_key: str) -> None:
        """Take up a host with its engines, for the model that its token is for."""
        invitation = await _run(lambda: self._file.invitation(token))
        engine = JoinedEngine(
            name=name,
            addresses=addresses,
            model=invitation.model,
            public_key=public_key,
            joined=time.time(),
        )
        await _run(partial(self._file.join, token, engine))

    async def joined(self) -> list[dict[str, Any]]:
        """Return the hosts that have joined."""
        engines: list[dict[str, Any]] = msgspec.to_builtins(await _run(self._file.engines))
        return engines

    async def remove(self, name: str) -> None:
        """Remove a host: its engines finish their requests and get no more."""
        await _run(partial(self._file.remove, name))


def _fingerprint(certificate: str | None) -> str | None:
    if certificate is None:
        return None
    text = Path(certificate).read_text(encoding="utf-8")
    first = text[text.index("-----BEGIN CERTIFICATE-----") :]
    end = "-----END CERTIFICATE-----"
    der = ssl.PEM_cert_to_DER_cert(first[: first.index(end) + len(end)])
    return hashlib.sha256(der).hexdigest()


async def _run(work: Callable[[], _Result]) -> _Result:
    """Do what waits for the disk on a thread."""
    try:
        return await asyncio.get_running_loop().run_in_executor(None, work)
    except (JoinError, LinkKeyError) as error:
        raise InvalidRequestError(str(error)) from None
