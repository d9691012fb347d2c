"""``python -m vgate.frontend``, which only the launcher starts."""

import argparse
import signal
import sys


def main() -> int:
    """Start one frontend worker of the instance in the run directory."""
    parser = argparse.ArgumentParser(prog="vgate.frontend", description=__doc__)
    parser.add_argument("--run-dir", required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--worker", type=int, required=True)
    options = parser.parse_args()
    # The launcher decides when to stop; Ctrl-C in its terminal is for the launcher alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    from vgate.config import Runtime
    from vgate.frontend.main import run
    from vgate.parent_death import die_with_parent

    die_with_parent(options.parent)
    return run(Runtime.read(options.run_dir), options.worker)


if __name__ == "__main__":
    sys.exit(main())
