"""Where requests wait: for their model to be loaded, and for the ends of their sequences."""
