"""The real engine, on vLLM's EngineCore. All that knows vLLM is in here."""
