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
        names: Those besides the local ones; "*" allows any. None: any if the server is open to
            other machines or requests need an API key, which such a page doesn't have.
        is_local: Whether the server listens for this machine only.
        key_required: Whether requests need an API key.
    """

    def __init__(self, names: list[str] | None, *, is_local: bool, key_required: bool) -> None:
        if names is None:
            names = [] if is_local and not key_required else ["*"]
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
