"""Fills what an engine promises, once, before it is ready."""
