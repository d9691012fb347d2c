"""Fields of a request that have no effect, and how the client is told of them."""

import re
from collections.abc import Callable

from vgate.errors import UnknownParameterError

HEADER = "x-vgate-ignored"

# More says no more; a header is to stay short.
_MAX_NAMES = 32
_MAX_NAME_CHARS = 64
_INDEX = re.compile(r"\[\d+\]")
_NO_NAME = re.compile(r"[^\w.\[\]=-]", re.ASCII)


class Ignored:
    """The ignored fields of one request, each once.

    Args:
        refuse_unknown: Whether a field that the API doesn't have is an error (the configuration's
            `server.unknown_fields`).

    Attributes:
        names: Their paths, without indices: `messages[].thinking`.
    """

    __slots__ = ("_refuse_unknown", "names")

    def __init__(self, *, refuse_unknown: bool = False) -> None:
        self._refuse_unknown = refuse_unknown
        self.names: list[str] = []

    def add(self, name: str) -> None:
        """Note a known field that this server or this model can't follow."""
        if len(self.names) >= _MAX_NAMES:  # a body may have 100,000
            return
        name = _NO_NAME.sub("?", _INDEX.sub("[]", name)[:_MAX_NAME_CHARS])
        if name not in self.names:
            self.names.append(name)

    def add_unknown(self, name: str, hint: Callable[[], str] = str) -> None:
        """Note a field that the API doesn't have; `hint` returns the end of the error's sentence.

        Raises:
            UnknownParameterError: The server refuses unknown fields.
        """
        if self._refuse_unknown:
            raise UnknownParameterError(
                f"`{name}` is not a known field{hint()}", param=name or None
            )
        self.add(name)
