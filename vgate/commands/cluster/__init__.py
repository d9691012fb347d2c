"""The commands for more than one engine."""
