"""A device that only keeps time: vLLM's worker without a model, so that the rest can be measured.

With the variables of `Device.environment` (`bench.hooks`) vLLM's worker sleeps as long as a device
would compute, and returns tokens that follow from their position. Its scheduler, KV cache and
everything above stay as they are, in V-Gate as in vLLM's own servers.
"""
