"""The simulated engine: no GPU, no weights, and output that a test can choose."""
