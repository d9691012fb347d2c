"""Packages whose modules are imported without what the package itself imports.

prometheus_client and granian import servers that a frontend never runs, and with them Python's
packages for HTTP, email and processes: 3 MiB, and some 30 ms of each start.
"""

import sys
from importlib.util import find_spec, module_from_spec

NAMES = ("prometheus_client", "granian", "granian.server")


def use() -> None:
    """Make these packages empty. Call it before they are imported; it changes none that is there.

    Their modules are imported by their own names then: `from granian.server import embed` works,
    and `from prometheus_client import Counter` doesn't.
    """
    for name in NAMES:
        if name not in sys.modules and (spec := find_spec(name)) is not None:
            sys.modules[name] = module_from_spec(spec)
