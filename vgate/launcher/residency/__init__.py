"""Models that are loaded when requests name them: which ones are in memory, and who makes room."""
