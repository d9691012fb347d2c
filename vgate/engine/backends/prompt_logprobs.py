"""Computes the log probabilities of a prompt a piece at a time, so that a long one fits.

vLLM's first model runner, which runs on CPUs and where the second one can't, computes the logits of
all the prompt's tokens in a step at once (vllm/v1/worker/gpu_model_runner.py): with a vocabulary of
150,000 and where prompts aren't read in parts, a prompt of 8,000 tokens takes 10 GB for a moment,
and one request ends the engine. The second one takes 1,024 at a time.
"""

from typing import Any

from vgate.engine.request import Request, RequestError

# Of float32, the logits of a piece; there are up to three copies.
_PIECE_BYTES = 64 * 1024 * 1024
_FLOAT32_BYTES = 4
_LEAST_TOKENS = 16
# Where a prompt is read in one step: a processor's core takes about 10 s for so many logits, and
# nothing else runs meanwhile.
_LOGITS_IN_A_STEP = 2**28


def bound_prompt_logprobs(worker: Any, vocab_size: int) -> None:
    """Make one of vLLM's workers, in whose process this runs, compute them in pieces."""
    runner: Any = getattr(worker, "model_runner", None)
    if hasattr(runner, "_get_prompt_logprobs_dict"):
        tokens = max(_LEAST_TOKENS, _PIECE_BYTES // (_FLOAT32_BYTES * max(1, vocab_size)))
        runner._get_prompt_logprobs_dict = InPieces(runner, tokens)  # noqa: SLF001


class InPieces:
    """Stands for a runner's method, and calls it for so many tokens of a prompt at a time.

    The method takes what a step has computed of each prompt; a piece looks to it like a step.
    """

    def __init__(self, runner: Any, tokens: int) -> None:
        self._runner = runner
        self._whole = runner._get_prompt_logprobs_dict  # noqa: SLF001
        self._tokens = tokens

    def __call__(self, hidden_states: Any, num_scheduled_tokens: dict[str, int]) -> dict[str, Any]:
        """Return the log probabilities of the prompts that are complete, by request."""
        complete: dict[str, Any] = {}
        for key in list(self._runner.num_prompt_logprobs):
            if (scheduled := num_scheduled_tokens.get(key)) is not None:
                request = self._runner.requests[key]
                began = request.num_computed_tokens
                for done in range(0, scheduled, self._tokens):
                    request.num_computed_tokens = began + done
                    piece = {key: min(self._tokens, scheduled - done)}
                    complete |= self._whole(hidden_states[done:], piece)
                request.num_computed_tokens = began
        return complete


def longest_prompt(vocab_size: int, *, in_parts: bool) -> int | None:
    """Return the most tokens of a prompt with log probabilities; None if any number is possible."""
    return None if in_parts else max(_LEAST_TOKENS, _LOGITS_IN_A_STEP // max(1, vocab_size))


def check_prompt_logprobs(request: Request, longest: int | None) -> None:
    """Raise RequestError if a prompt is too long for log probabilities."""
    tokens = len(request.prompt)
    if longest is not None and tokens > longest and request.options.prompt_logprobs is not None:
        reason = f"the prompt has {tokens} tokens, the maximum for this is {longest}"
        raise RequestError("invalid_value", reason, "prompt_logprobs")
