"""Where the server is, and what both clients ask of it. Pure."""

import os
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import urlsplit

CacheMode = Literal["default", "refresh", "off"]

_DEFAULT_URL = "http://127.0.0.1:8000/v1"
# RFC 9111: a new answer; and a new one that isn't stored either.
_CACHE_CONTROL = {"default": "", "refresh": "no-cache", "off": "no-store"}
RESUMABLE = "X-VGate-Resumable"
CACHE = "X-VGate-Cache"


class NotReadyError(TimeoutError):
    """The server serves no requests yet; the message says why."""


def base_url(given: object, environ: Mapping[str, str] = os.environ) -> str:
    """Return the base URL: as given, of the environment, or of a server on this machine."""
    known = environ.get("VGATE_BASE_URL") or environ.get("OPENAI_BASE_URL") or _DEFAULT_URL
    url = str(given or known)
    return url if urlsplit(url).path.strip("/") else url.rstrip("/") + "/v1"


def api_key(given: Any, environ: Mapping[str, str] = os.environ) -> Any:
    """Return the key: as given or of the environment; without one, a word that no server checks."""
    return given or environ.get("VGATE_API_KEY") or environ.get("OPENAI_API_KEY") or "unused"


def root_of(url: object) -> str:
    """Return the address of the server, for the paths that are not below `/v1`."""
    return str(url).rstrip("/").removesuffix("/v1")


def cache_headers(mode: CacheMode) -> dict[str, str]:
    """Return the headers that ask for a use of the result cache."""
    if mode not in _CACHE_CONTROL:
        message = f"cache must be one of {', '.join(_CACHE_CONTROL)}, not {mode!r}"
        raise ValueError(message)
    return {"Cache-Control": control} if (control := _CACHE_CONTROL[mode]) else {}


def usage_query(by: str | None, since: str | None, until: str | None) -> dict[str, object]:
    """Return the query of `GET /v1/usage`."""
    query = {"by": by, "since": since, "until": until}
    return {name: value for name, value in query.items() if value is not None}


def reason_of(status: int, body: Any) -> str | None:
    """Return why a server is not ready, from its answer to `GET /ready`; None if it is."""
    if status == 200:
        return None
    reason = body.get("reason") if isinstance(body, dict) else None
    return str(reason or f"the server answers {status}")


def status_of(answer: Any, noted: Mapping[str, str]) -> str | None:
    """Return how the cache was used for an answer, a stream or a raw response."""
    response = getattr(answer, "response", None) or answer
    headers = getattr(response, "headers", None)
    if headers is not None:
        found: str | None = headers.get(CACHE)
        return found
    return noted.get(getattr(answer, "_request_id", None) or "")
