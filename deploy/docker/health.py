"""The containers' health check: ends with 0 if a frontend answers ``/health``."""  # noqa: INP001 - a program, no package

from __future__ import annotations

import os
import urllib.request

_TIMEOUT_S = 4

if __name__ == "__main__":
    # Without a proxy: a container's http_proxy is meant for other machines.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    port = os.environ["VGATE_SERVER__PORT"]
    # Raises, and so ends with 1, for everything but an answer with a 2xx status.
    opener.open(f"http://127.0.0.1:{port}/health", timeout=_TIMEOUT_S).close()
