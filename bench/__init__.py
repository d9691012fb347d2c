"""Measurements of V-Gate and of other OpenAI-compatible servers."""
