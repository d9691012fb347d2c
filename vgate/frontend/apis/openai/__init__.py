"""OpenAI's APIs, with vLLM's additions."""
