"""Anthropic's APIs."""
