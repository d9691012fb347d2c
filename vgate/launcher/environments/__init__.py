"""Makes the Python environment that a start from a clone needs, and starts the launcher in it.

`bin/vgate`, `bin/test` and `bin/lock` import this before anything is installed, so it needs only
Python 3.8 and the standard library. V-Gate itself is not installed: it runs from the clone.
"""
