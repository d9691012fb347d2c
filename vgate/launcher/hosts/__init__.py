"""The links to other hosts: what is wrong with them, and probes of an engine host."""
