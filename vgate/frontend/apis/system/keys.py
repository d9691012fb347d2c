"""``/admin/keys``: lists the API keys, and adds, rotates and revokes those of the key file."""

import asyncio
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from vgate.errors import (
    InternalError,
    InvalidJSONError,
    InvalidRequestError,
    InvalidValueError,
    MethodNotAllowedError,
    NotFoundError,
)
from vgate.frontend.apis.decoding import document_of
from vgate.frontend.http import JSON, SMALL_BYTES, HttpRequest, Response
from vgate.frontend.services import Services
from vgate.key_file import KeyFile
from vgate.keys import ApiKey, KeyFileError, KeyName, KeyRing, KeysError, KeyTerms
from vgate.log import Log
from vgate.validation import explain

PREFIX = "/admin/keys/"
_ROTATE = "/rotate"
_NO_HASH = "0" * 64  # until `KeyFile` makes the key
# As they are called here, and in the use of limits.
_USED = {
    "requests": "requests",
    "tokens": "tokens",
    "concurrent": "concurrent",
    "budget_tokens": "budget_used",
}

_Result = TypeVar("_Result")

log = Log("vgate.frontend")


class NewKey(KeyTerms, frozen=True, kw_only=True):
    """What ``POST /admin/keys`` takes."""

    name: KeyName


_decode_new = msgspec.json.Decoder(NewKey).decode


async def keys(services: Services, http: HttpRequest) -> Response:
    """List the API keys, or add one and answer with it."""
    if http.method == "POST":
        return await _add(services, http)
    ring = await _run(lambda: _ring(services))
    used = {row["key"]: row for row in await services.limits(http)}
    configured = {key.name for key in services.security.api_keys}
    data = [
        {
            "name": key.name,
            "created": key.created,
            **{name: getattr(key, name) for name in KeyTerms.__struct_fields__},
            "used": _used(key, used.get(key.name, {})),
            "editable": key.name not in configured,
        }
        for key in ring
    ]
    return _json({"object": "list", "data": data})


async def one_key(services: Services, http: HttpRequest) -> Response:
    """Revoke an API key, or replace it by a new one with its terms."""
    name = http.path.removeprefix(PREFIX)
    if http.method == "DELETE":
        await _edit(services, name, lambda file: file.revoke(name))
        _report("key revoked", http, name)
        return _json({"name": name, "deleted": True})
    if not name.endswith(_ROTATE) or name == _ROTATE:
        message = f"{PREFIX}NAME takes DELETE, and {PREFIX}NAME{_ROTATE} takes POST"
        raise MethodNotAllowedError(message, allow="DELETE")
    name = name.removesuffix(_ROTATE)
    secret = await _edit(services, name, lambda file: file.rotate(name))
    _report("key rotated", http, name)
    return _json({"name": name, "key": secret})


def _used(key: ApiKey, row: dict[str, Any]) -> dict[str, int | None]:
    used = {name: row.get(of) or 0 for name, of in _USED.items()}
    if key.budget_tokens is None:
        return used
    return used | {"budget_tokens": row.get("budget_used")}  # None if it can't be told


async def _add(services: Services, http: HttpRequest) -> Response:
    body = await services.work.body(http, SMALL_BYTES)
    try:
        new = _decode_new(body)
    except msgspec.ValidationError as error:
        problem = explain(error, document_of(body), NewKey)
        raise InvalidValueError(str(problem), param=problem.path or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidJSONError(f"the body is not valid JSON in UTF-8: {error}") from None
    key = msgspec.convert({**msgspec.structs.asdict(new), "sha256": _NO_HASH}, ApiKey)

    def add(file: KeyFile) -> str:
        # The key file alone doesn't know the names of the configuration.
        if any(known.name == key.name for known in _ring(services)):
            message = f"there is a key `{key.name}` already; rotate or revoke it"
            raise InvalidValueError(message, param="name")
        return file.add(key)

    secret = await _edit(services, None, add)
    _report("key added", http, key.name)
    return _json({"name": key.name, "key": secret}, 201)


async def _edit(
    services: Services, name: str | None, edit: Callable[[KeyFile], _Result]
) -> _Result:
    """Edit the key file, for the key `name` if it is an earlier one."""
    security = services.security
    if name is not None and name in {key.name for key in security.api_keys}:
        raise InvalidRequestError(
            f"`{name}` is in the configuration (security.api_keys): change it there, and reload"
        )
    if security.key_file is None:
        raise InvalidRequestError(
            "there is no key file: set security.key_file to a path, where none need exist yet"
        )
    file = KeyFile(Path(security.key_file))
    known = {key.name for key in await _run(lambda: _ring(services))}
    if name is not None and name not in known:
        raise NotFoundError(f"there is no key `{name}`")
    return await _run(partial(edit, file))


async def _run(work: Callable[[], _Result]) -> _Result:
    """Do what waits for the disk, and perhaps for another program's lock, on a thread."""
    try:
        return await asyncio.get_running_loop().run_in_executor(None, work)
    except KeyFileError as error:
        raise InternalError(str(error)) from None
    except KeysError as error:
        raise InvalidRequestError(str(error)) from None


def _ring(services: Services) -> KeyRing:
    """Return the keys as they are now; this worker takes over a change within a second."""
    security = services.security
    return KeyRing.build(security.api_keys, Path(security.key_file) if security.key_file else None)


def _report(what: str, http: HttpRequest, name: str) -> None:
    log.info(what, of=name, by=http.admission.key.name, request_id=http.id)


def _json(body: dict[str, Any], status: int = 200) -> Response:
    return Response(status, msgspec.json.encode(body), [JSON])
