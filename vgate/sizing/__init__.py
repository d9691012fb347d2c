"""Chooses what `auto` stands for: a model's context, its batch, and its share of the memory.

Pure figures from `vgate.fit`, so that `vgate check` says what an engine would choose. The engine
has better ones, those of the driver and of vLLM, and chooses by the same rules.
"""
