"""The containers' health check: ends with 0 if a frontend answers ``/health``."""  # noqa: INP001 - a program, no package

from __future__ import annotations

import http.client
import os
import ssl
import urllib.request

_TIMEOUT_S = 4


def check(port: str) -> None:
    """Raise an error unless there is an answer with a 2xx status, by HTTP or HTTPS."""
    # The certificate is another name's, and nothing secret is sent.
    context = ssl._create_unverified_context()  # noqa: S323, SLF001
    # Without a proxy: a container's http_proxy is meant for other machines.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        opener.open(f"http://127.0.0.1:{port}/health", timeout=_TIMEOUT_S).close()
    except (OSError, http.client.HTTPException):
        try:
            opener.open(f"https://127.0.0.1:{port}/health", timeout=_TIMEOUT_S).close()
        except OSError as error:
            # A server that wants a client's certificate lives.
            if "CERTIFICATE_REQUIRED" not in str(error):
                raise


if __name__ == "__main__":
    check(os.environ["VGATE_SERVER__PORT"])
