"""The names of models that a request may know of, as each API lists them."""

from collections.abc import Collection

import msgspec

from vgate.errors import ModelNotFoundError
from vgate.frontend.engines.port import ServedName
from vgate.frontend.http import HttpRequest
from vgate.frontend.services import Services

PREFIX = "/v1/models/"


def known_names(services: Services, http: HttpRequest) -> list[ServedName]:
    """Return the names that the request's key may use; what it may not know of isn't told."""
    allowed = services.models.allowed(http.admission.key)
    names = services.models.names()
    if allowed is None:
        return names
    return [_without_parent(name, allowed) for name in names if name.name in allowed]


def _without_parent(name: ServedName, allowed: Collection[str]) -> ServedName:
    """Return a name without what it stands for, if that isn't allowed."""
    if name.parent is None or name.parent in allowed:
        return name
    return msgspec.structs.replace(name, root=name.name, parent=None)


def known_name(services: Services, http: HttpRequest) -> ServedName:
    """Return the name that the request's path asks for; it may contain slashes.

    Raises:
        ModelNotFoundError: The request's key may use no such name.
    """
    asked = http.path.removeprefix(PREFIX)
    names = {name.name: name for name in known_names(services, http)}
    if asked not in names:
        message = f"the model `{asked}` does not exist; served: {', '.join(names)}"
        raise ModelNotFoundError(message, param="model")
    return names[asked]
