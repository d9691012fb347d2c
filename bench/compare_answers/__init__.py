"""Does V-Gate answer as vLLM's own server does? One model, one request at a time, by field."""
