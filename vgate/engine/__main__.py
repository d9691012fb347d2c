"""``python -m vgate.engine``: started by the launcher, not by hand."""

import argparse
import os
import signal
import sys


def main() -> int:
    """Run one engine of the instance in the run directory; return the exit status."""
    parser = argparse.ArgumentParser(prog="vgate.engine", description=__doc__)
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--engine", type=int, required=True, help="number in Runtime.engines")
    options = parser.parse_args()
    # Ctrl-C reaches every process of the terminal; the launcher decides when an engine stops.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    from vgate.config import Runtime
    from vgate.engine.main import run
    from vgate.parent_death import die_with_parent

    die_with_parent(options.parent)
    return run(Runtime.read(options.run_dir), options.engine)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Everything is sent and shut down. A regular exit would spend seconds on unloading torch while
    # the launcher waits.
    os._exit(status)
