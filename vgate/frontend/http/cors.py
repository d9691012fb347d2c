"""Which web pages may use the server (the Fetch standard's CORS protocol).

A page's request carries its origin. Where no key is required, any page in the owner's browser could
use the server. So only local pages may. The requests of others are refused, since CORS alone keeps
a page from reading answers, but not from sending some kinds of requests.
"""

import re
from collections.abc import Iterable

from vgate.errors import ForbiddenError
from vgate.frontend.http.request import HttpRequest, Response

_LOCAL = re.compile(
    r"https?://(localhost|[\w.-]+\.localhost|127(\.\d{1,3}){3}|\[::1\])(:\d+)?"
    # Desktop programs and editors, whose pages don't come from the network.
    r"|(app|capacitor|file|ionic|tauri|vscode-file|vscode-webview)://.*",
    re.IGNORECASE,
)
# No page can point an address at another machine, as it can a name (DNS rebinding).
_ADDRESS = re.compile(r"(\d{1,3}(\.\d{1,3}){3}|\[[0-9a-f:.]+\])(:\d+)?", re.IGNORECASE | re.ASCII)
_MAX_AGE_S = 600
_METHODS = "GET, POST, DELETE, OPTIONS"


def _is_of_another_site(http: HttpRequest) -> bool:
    """Whether a page elsewhere made the browser send it (W3C, Fetch Metadata Request Headers).

    An image or a script is requested without an origin. A link that somebody follows is theirs.
    """
    if http.header("sec-fetch-site") != "cross-site":
        return False
    follows = http.header("sec-fetch-mode"), http.header("sec-fetch-dest")
    return http.method != "GET" or follows != ("navigate", "document")


def _forbidden(pages: str) -> ForbiddenError:
    return ForbiddenError(
        f"{pages} may not use this server; the operator can allow them with "
        "server.cors_allow_origins"
    )


class Cors:
    """The rule for origins.

    Args:
        origins: The origins that are let in, "*" for any; None for any where a key is required,
            and for local ones where none is.
        key_required: Whether requests need an API key.
        names: The server's names that are sure to be its own.
    """

    def __init__(
        self, origins: list[str] | None, *, key_required: bool, names: Iterable[str] = ()
    ) -> None:
        self._key_required = key_required
        self._names = frozenset(name.lower() for name in names)
        self._local = origins is None and not key_required
        if origins is None:
            origins = [] if self._local else ["*"]
        self._origins = frozenset(origins)

    def allows(self, origin: str) -> bool:
        """Whether a page of this origin may use the server."""
        if self._local:
            return _LOCAL.fullmatch(origin) is not None
        return "*" in self._origins or origin in self._origins

    def _is_own(self, http: HttpRequest, origin: str) -> bool:
        """Whether it is the server's own page, under an address or a name that is surely its own.

        Where a key is required, another's page under the server's name has none.
        """
        host = (http.header("host") or "").lower()
        if not host or origin.lower().partition("://")[2] != host:
            return False
        names = {host, host.rpartition(":")[0]}
        return self._key_required or bool(_ADDRESS.fullmatch(host) or names & self._names)

    def check(self, http: HttpRequest) -> None:
        """Let a page read the response, if the request is a page's.

        Raises:
            ForbiddenError: The page may not use the server.
        """
        origin = http.header("origin")
        if origin is None:
            if "*" not in self._origins and _is_of_another_site(http):
                raise _forbidden("pages of other sites")
            return
        if not self.allows(origin) and not self._is_own(http, origin):
            raise _forbidden(f"pages of {origin[:200]}")
        http.set_header("access-control-allow-origin", origin)
        http.set_header("access-control-expose-headers", "*")
        http.set_header("vary", "origin")

    def preflight(self, http: HttpRequest) -> Response | None:
        """Return the answer to a browser's question before a request; None for anything else."""
        if http.method != "OPTIONS" or http.header("access-control-request-method") is None:
            return None
        headers = http.header("access-control-request-headers") or "*"
        return Response(
            204,
            b"",
            [
                ("access-control-allow-methods", _METHODS),
                ("access-control-allow-headers", headers),
                ("access-control-max-age", str(_MAX_AGE_S)),
            ],
        )
