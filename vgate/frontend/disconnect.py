"""The event that ends a request whose client is gone."""

from __future__ import annotations


class ClientDisconnected(Exception):  # noqa: N818 - it is an event, nobody's error
    """The client is gone; nobody waits for the answer."""
