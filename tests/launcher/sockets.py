"""Listening sockets that don't exist, for frontends that are never started."""


class Socket:
    """Stands for one of them."""

    def fileno(self) -> int:
        """Return no descriptor."""
        return -1

    def close(self) -> None:
        """Do nothing."""


SOCKETS = (Socket(), Socket())
