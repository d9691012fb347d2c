"""Engines on other hosts: links that break, and names that stand for several engines."""
