"""The frontend processes: HTTP under granian.

They parse, tokenise, stream and detokenise, and never load torch, vllm, transformers or numpy.
"""
