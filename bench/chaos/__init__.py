"""A mixed load with known answers against a server whose processes die, hang and starve."""
