"""The simulated engine: no GPU, no weights, and answers that a test can dictate."""
