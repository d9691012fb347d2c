"""``python -m vgate.frontend``, which only the launcher starts."""

import sys

from vgate.child_process import begin


def main() -> int:
    """Run one frontend worker of the instance in the run directory; return the exit status."""
    run_dir, (worker, listener) = begin("vgate.frontend", "worker", "listener")

    import msgspec

    from vgate.config import Runtime
    from vgate.frontend.main import run

    try:
        runtime = Runtime.read(run_dir)
    except msgspec.DecodeError as error:
        reason = f"it can't read the settings of the launcher, which is another version ({error})"
        sys.stderr.write(f"vgate.frontend: {reason}: restart V-Gate\n")
        return 1
    return run(runtime, worker, listener)


if __name__ == "__main__":
    sys.exit(main())
