"""Requests whose model is not loaded: where they wait, and what their clients hear meanwhile."""
