"""Fetches models from the Hugging Face Hub, or a mirror of it, into its cache.

The engine and ``vgate models pull`` do it with this. `HF_ENDPOINT`, `HF_HOME`, `HF_HUB_CACHE`,
`HF_HUB_OFFLINE` and `HF_TOKEN` mean what they mean to `huggingface_hub`.
"""

from vgate.hub.download import fetch
from vgate.hub.errors import HubError

__all__ = ["HubError", "fetch"]
