"""``python -m vgate.launcher``: the same as the ``vgate`` command."""

import sys

from vgate.launcher.cli import main

if __name__ == "__main__":
    sys.exit(main())
