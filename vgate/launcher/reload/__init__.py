"""A running instance takes over a changed configuration: SIGHUP and ``vgate reload``."""
