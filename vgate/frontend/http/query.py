"""The parameters of a request's query string."""

from urllib.parse import parse_qsl

from vgate.errors import InvalidRequestError
from vgate.frontend.http.request import HttpRequest

# Of 64 KB, as many as HTTP takes, 16,000 parameters would take 12 ms to read.
_MOST_CHARS = 4096


def parameters(http: HttpRequest, *, keep_blank_values: bool = False) -> dict[str, str]:
    """Return the parameters by name, of each the last one.

    Raises:
        InvalidRequestError: The query string is too long.
    """
    if len(http.query) > _MOST_CHARS:
        raise InvalidRequestError(f"the query string must have at most {_MOST_CHARS} characters")
    return dict(parse_qsl(http.query, keep_blank_values=keep_blank_values))
