"""The prompts of an embed request: of single inputs, or of pairs that a model reads at once."""

from vgate.frontend.pipeline.inputs.pairs import pair_prompts
from vgate.frontend.pipeline.inputs.texts import Prompt, prompts_of_inputs

__all__ = ["Prompt", "pair_prompts", "prompts_of_inputs"]
