"""Requests in random order over more models than fit, while engines are killed."""
