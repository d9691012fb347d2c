"""The frontend's connections to engines, and the sequences that run in them."""
