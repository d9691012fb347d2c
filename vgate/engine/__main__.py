"""``python -m vgate.engine``, which only the launcher starts."""

import logging
import os
import sys

from vgate.child_process import begin


def main() -> int:
    """Run one engine of the instance in the run directory; return the exit status."""
    run_dir, (engine,) = begin("vgate.engine", "engine")

    from vgate.config import Runtime
    from vgate.engine.main import run

    return run(Runtime.read(run_dir), engine)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    logging.shutdown()
    # Everything is sent and shut down. A regular exit would spend seconds on unloading torch while
    # the launcher waits.
    os._exit(status)
