"""The smallest application that granian can serve: one body for every request."""

import os
from typing import Any

_BODY = os.environ.get("COMPARE_BODY", "{}").encode()
_HEADERS = [("content-type", "application/json")]


async def app(_scope: Any, protocol: Any) -> None:
    """Answer without looking at the request."""
    protocol.response_bytes(200, _HEADERS, _BODY)
