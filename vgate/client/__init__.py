"""A client of V-Gate in Python: OpenAI's, and what V-Gate offers beyond.

`Client` and `AsyncClient` are `openai.OpenAI` and `openai.AsyncOpenAI` with the server's address
and key from the environment, streams that outlive their connection, retries that wait as long as
the server says, and V-Gate's own endpoints. The package `openai` comes with
``pip install 'vgate[client]'``.
"""

try:
    import openai as _openai  # noqa: F401
except ImportError as error:
    message = "vgate.client needs the package openai: pip install 'vgate[client]'"
    raise ImportError(message) from error

from vgate.client.clients import AsyncClient, Client
from vgate.client.settings import CacheMode, NotReadyError

__all__ = ["AsyncClient", "CacheMode", "Client", "NotReadyError"]
