"""``python -m vgate.engine``: started by the launcher, not by hand."""

from __future__ import annotations

import argparse
import os
import signal
import sys


def main() -> int:
    """Start an engine of the instance in the run directory."""
    parser = argparse.ArgumentParser(prog="vgate.engine", description=__doc__)
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--engine", type=int, required=True, help="number in Runtime.engines")
    options = parser.parse_args()
    # The launcher decides when to stop; Ctrl-C at its terminal is its own affair.
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
    # All is handed over and shut down. Taking torch apart would take the interpreter seconds, in
    # which the launcher waits.
    os._exit(status)
