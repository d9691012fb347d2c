"""What crosses a process boundary: messages, their encoding, and the sockets that carry them."""
