"""``python -m vgate.frontend``, which only the launcher starts."""

import sys

from vgate.child_process import begin


def main() -> int:
    """Run one frontend worker of the instance in the run directory; return the exit status."""
    run_dir, worker = begin("vgate.frontend", "worker")

    from vgate.config import Runtime
    from vgate.frontend.main import run

    return run(Runtime.read(run_dir), worker)


if __name__ == "__main__":
    sys.exit(main())
