"""The launcher: makes the environment, starts the engines and frontends, and watches them."""
