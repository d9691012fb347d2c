"""From `model.speculation` to vLLM's speculative_config. Pure, but for the look for numba."""

from importlib.util import find_spec
from typing import Any

from vgate.config.model import Model
from vgate.engine.backends.base import BackendError
from vgate.engine.backends.vllm.cards.card import Card
from vgate.fit.families import MTP_TOKENS, NGRAM_TOKENS

# Shorter matches are found more often and are right less often.
_LONGEST_MATCH, _SHORTEST_MATCH = 4, 2


def speculative_config(
    model: Model, card: Card, sequences: int, *, has_mtp: bool
) -> tuple[dict[str, Any] | None, list[str]]:
    """Return vLLM's speculative_config, None without speculation, and why.

    Raises:
        BackendError: What is asked for can't be had here.
    """
    wanted = model.speculation
    if wanted == "none" or "speculative_config" in model.engine_args:
        return None, []
    on_gpu = card.capability is not None
    if wanted == "auto" and not on_gpu:
        # vLLM warns of it, and drafting less is no help: numba brings a second OpenMP runtime.
        return None, ["no speculation: on a CPU it makes all steps slower"]
    if wanted == "mtp" and not has_mtp:
        raise BackendError(
            f"model.speculation is mtp, but {model.model_id} has no layers that draft tokens: set "
            "it to ngram or none"
        )
    if wanted == "ngram" and not on_gpu and find_spec("numba") is None:
        raise BackendError(
            "model.speculation is ngram, for which vLLM needs the package numba on a CPU: install "
            "it into vLLM's environment, or set model.speculation to none"
        )
    if wanted == "mtp" or (wanted == "auto" and has_mtp):
        method, tokens = "mtp", model.speculation_tokens or MTP_TOKENS
        how = "the model's own layers"
    else:
        # With the second name steps are scheduled ahead (vllm/config/vllm.py).
        method, how = "ngram_gpu" if on_gpu else "ngram", "the text so far"
        tokens = model.speculation_tokens or NGRAM_TOKENS
    found: dict[str, Any] = {
        "method": method,
        "num_speculative_tokens": tokens,
        "num_speculative_tokens_per_batch_size": _schedule(tokens, sequences),
    }
    if method != "mtp":
        found |= {"prompt_lookup_max": _LONGEST_MATCH, "prompt_lookup_min": _SHORTEST_MATCH}
    reason = f"{tokens} tokens are drafted from {how} as long as that pays"
    return found, [reason]


def _schedule(tokens: int, sequences: int) -> list[list[int]]:
    """Return vLLM's drafts by the size of the batch; `drafting` changes them while it runs.

    vLLM makes CUDA graphs for each number that the schedule has, so it has to have none as well.
    """
    if sequences == 1:
        return [[1, 1, tokens]]
    return [[1, sequences - 1, tokens], [sequences, sequences, 0]]
