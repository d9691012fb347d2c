"""Completions: prompts as text or token ids, without a conversation."""
