"""``python -m vgate.launcher``: the same as the ``vgate`` command."""

import sys

if __name__ == "__main__":
    try:
        from vgate.launcher.cli import main

        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
