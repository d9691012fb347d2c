"""V-Gate: an OpenAI-compatible LLM serving gateway in front of vLLM."""

__version__ = "0.1.0"
