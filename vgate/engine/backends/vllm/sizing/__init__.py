"""What a start takes of its device: chosen before vLLM loads, and once it has measured."""
