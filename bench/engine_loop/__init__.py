"""What the engine process adds to vLLM: its loop and the bare EngineCore, side by side."""
