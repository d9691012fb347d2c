"""Packages that a frontend imports without what it never uses of them.

prometheus_client and granian import servers that a frontend never runs, and with them Python's
packages for HTTP, email and processes: 3 MiB, and some 30 ms of each start. granian and msgspec
import what they can do without, if it is installed: 1 MiB.
"""

import sys
from importlib.util import find_spec, module_from_spec

NAMES = ("prometheus_client", "granian", "granian.server")
# For granian's own command line, and names of later Pythons than msgspec's first.
_OPTIONAL = ("anyio", "dotenv", "setproctitle", "watchfiles", "typing_extensions")


def use() -> None:
    """Make packages empty, and import granian and msgspec as if nothing else were installed.

    Call it before they are imported; it changes nothing that is there. The modules of an empty
    package are imported by their own names: `from granian.server import embed` works, and
    `from prometheus_client import Counter` doesn't.
    """
    for name in NAMES:
        if name not in sys.modules and (spec := find_spec(name)) is not None:
            sys.modules[name] = module_from_spec(spec)
    hidden = [name for name in _OPTIONAL if name not in sys.modules]
    # Python finds no module where None is.
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]
    try:
        import granian._imports  # noqa: F401
        import msgspec  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
