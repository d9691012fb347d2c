"""The real engine, on vLLM's EngineCore. No other package knows vLLM."""
