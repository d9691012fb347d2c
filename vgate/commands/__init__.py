"""The operator's commands, such as ``vgate status``: they talk HTTP to a running server.

`arguments` lists all commands. One of them is a module with ``configure(parser)``, which adds its
arguments, and ``run(options, config)``, which returns the exit status, or nothing for 0. None of
them imports another program of V-Gate.
"""
