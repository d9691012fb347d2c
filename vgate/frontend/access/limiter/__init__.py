"""Exact limits per API key, shared by all workers.

`port.Limiter` is what the room uses, `local` the limiter of one machine.
"""
