"""The containers' health check: ends with 0 if a frontend answers ``/health``.

With the argument `ready` it asks ``/ready``, and says why not, such as the phase of a model's load.
"""  # noqa: INP001 - a program, no package

from __future__ import annotations

import http.client
import json
import os
import ssl
import sys
import urllib.error
import urllib.request

_TIMEOUT_S = 4


def check(port: str, path: str) -> None:
    """Raise an error unless there is an answer with a 2xx status, by HTTP or HTTPS."""
    # The certificate is another name's, and nothing secret is sent.
    context = ssl._create_unverified_context()  # noqa: S323, SLF001
    # Without a proxy: a container's http_proxy is meant for other machines.
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    try:
        opener.open(f"http://127.0.0.1:{port}{path}", timeout=_TIMEOUT_S).close()
    except urllib.error.HTTPError:
        raise
    except (OSError, http.client.HTTPException):
        try:
            opener.open(f"https://127.0.0.1:{port}{path}", timeout=_TIMEOUT_S).close()
        except OSError as error:
            # A server that wants a client's certificate lives.
            if "CERTIFICATE_REQUIRED" not in str(error):
                raise


def ready(port: str) -> str:
    """Return why requests would not be served; "" if they would be."""
    try:
        check(port, "/ready")
    except urllib.error.HTTPError as error:
        return str(json.loads(error.read()).get("reason") or error)
    except OSError as error:
        return f"nothing listens yet ({error})"
    return ""


if __name__ == "__main__":
    port_ = os.environ["VGATE_SERVER__PORT"]
    if sys.argv[1:] == ["ready"]:
        sys.exit(ready(port_) or 0)
    check(port_, "/health")
