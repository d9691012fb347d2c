"""What the engine process adds to vLLM: its loop against the bare EngineCore, side by side."""
