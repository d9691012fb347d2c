"""Generated text to reasoning, content and tool calls."""
