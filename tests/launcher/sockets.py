"""Listening sockets that don't exist, for frontends that are never started."""


class Sockets:
    """Stands for `Listeners`."""

    descriptors = (-1, -2)

    def close(self) -> None:
        """Do nothing."""
