"""Exact limits per API key, shared by all workers of a machine."""
