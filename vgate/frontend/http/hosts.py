"""Which names the server answers to.

A page may have a name that its owner first points at its own server, and then at this machine (DNS
rebinding). To the browser both are the same site, so it lets the page read the answers. The name is
in ``Host``, where no page can change it.
"""

import re

from vgate.errors import ForbiddenError
from vgate.frontend.http.request import HttpRequest

_LOCAL = re.compile(
    r"(localhost|[\w.-]+\.localhost|127(\.\d{1,3}){3}|\[::1\])\.?(:\d*)?", re.IGNORECASE | re.ASCII
)


class Hosts:
    """The rule for names.

    Args:
        names: Those that requests may have besides local ones, "*" for any; None for any if the
            server isn't `open_locally`.
        open_locally: Whether it serves this machine only, and needs no API key: with keys, such a
            page has none.
    """

    def __init__(self, names: list[str] | None, *, open_locally: bool) -> None:
        if names is None:
            names = [] if open_locally else ["*"]
        self._any = "*" in names
        self._names = frozenset(name.lower() for name in names)

    def check(self, http: HttpRequest) -> None:
        """Let a request pass.

        Raises:
            ForbiddenError: It asks for another name.
        """
        if self._any:
            return
        host = http.header("host")
        if host is None or _LOCAL.fullmatch(host):  # every browser sends it
            return
        host = host.lower()
        if host in self._names or host.rpartition(":")[0] in self._names:
            return
        raise ForbiddenError(
            f"this server doesn't answer to the name {host[:200]!r}; the operator can allow it "
            "with server.allowed_hosts"
        )
