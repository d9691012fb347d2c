"""V-Gate and other servers that answer the same requests, measured side by side on one machine."""
