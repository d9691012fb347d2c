"""How many prompt tokens a step may compute, so that those who read a stream see even gaps. Pure.

A step computes one token of each answer, and parts of prompts beside them (chunked prefill). Every
prompt token makes it longer, for all answers. vLLM bounds a step by a number of tokens that is
fixed at its start; what they take depends on the device and the model, so it is measured here.
(Agrawal et al., "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve", OSDI
2024, choose the number from a profile that was made before.)
"""

# Without a target a step with prompts lasts at most twice as long as one without.
_AUTO_SHARE = 1.0
# A sequence that waits for its prompt holds a place and gives no tokens, so the share grows with
# their number. Below this ratio the places cost more throughput than larger steps.
_STARTING_WEIGHT = 8.0
# Whatever the target, prompts get this share of a step without them: none takes five times as long
# as it would alone.
_LEAST_SHARE = 0.25
_LEAST_TOKENS = 16
# Of the steps without prompts, one in so many is measured.
_MEASURED_STEPS = 8
# How fast the times change from one measured step to the next, and how far one step is off them,
# as shares of themselves.
_DRIFT, _NOISE = 0.02, 0.15
# A step that the machine held up counts as one this many deviations longer than expected.
_OUTLIER = 3.0


class StepTime:
    """Follows how long a step takes: `base_s` without prompts, and `token_s` for each prompt token.

    A Kalman filter whose two values drift: the base with the sequences and their lengths. A step
    that took long because something else did is only believed if more of them follow.
    """

    def __init__(self) -> None:
        self.base_s = 0.0
        self.token_s = 0.0
        # The values' variances, and how they vary together.
        self._base_var = self._token_var = self._common_var = 0.0

    def observe(self, prompt_tokens: int, seconds: float) -> None:
        """Learn from a step."""
        if seconds <= 0:
            return
        if not self.base_s:
            self._begin(prompt_tokens, seconds)
            return
        if prompt_tokens and not self.token_s:
            # The first prompt: what it took is not known better than this.
            self.token_s = max(seconds - self.base_s, 0.1 * self.base_s) / prompt_tokens
            self._token_var = self.token_s**2
        base_var = self._base_var + (_DRIFT * self.base_s) ** 2
        token_var = self._token_var + (_DRIFT * self.token_s) ** 2
        common = self._common_var
        expected_s = self.base_s + self.token_s * prompt_tokens
        base_part = base_var + common * prompt_tokens
        token_part = common + token_var * prompt_tokens
        variance = base_part + token_part * prompt_tokens + (_NOISE * expected_s) ** 2
        error = min(seconds - expected_s, _OUTLIER * variance**0.5)
        base_gain, token_gain = base_part / variance, token_part / variance
        # Both stay above zero, so that they can be divided by and can grow again.
        self.base_s = max(self.base_s + base_gain * error, 0.1 * self.base_s)
        self.token_s = max(self.token_s + token_gain * error, 0.1 * self.token_s)
        self._base_var = base_var - base_gain * base_part
        self._token_var = token_var - token_gain * token_part
        self._common_var = common - base_gain * token_part

    def _begin(self, prompt_tokens: int, seconds: float) -> None:
        self.base_s = seconds / 2 if prompt_tokens else seconds
        self._base_var = self.base_s**2
        if prompt_tokens:
            self.token_s = seconds / 2 / prompt_tokens
            self._token_var = self.token_s**2


class PrefillBudget:
    """Bounds the prompt tokens of the next step from the times of those before.

    Args:
        target_s: The longest step that is wanted while answers are generated; None to choose it
            from the time of a step without prompts.
    """

    def __init__(self, target_s: float | None) -> None:
        self._target_s = target_s
        self._times = StepTime()
        self._unmeasured = 0

    @property
    def tokens_per_s(self) -> float:
        """How fast prompts are computed; 0 before one was."""
        return 1 / self._times.token_s if self._times.token_s else 0.0

    def observe(self, prompt_tokens: int, seconds: float) -> None:
        """Note how long a step took that computed so many prompt tokens."""
        if not prompt_tokens:
            self._unmeasured += 1
            if self._unmeasured < _MEASURED_STEPS and self._times.base_s:
                return
            self._unmeasured = 0
        self._times.observe(prompt_tokens, seconds)

    def tokens(self, decoding: int, starting: int) -> int | None:
        """Return the most prompt tokens of the next step; None for no limit.

        Args:
            decoding: The sequences that wait for their next token.
            starting: Those that wait for their prompt to be computed.
        """
        base_s, token_s = self._times.base_s, self._times.token_s
        if not decoding or not token_s:
            return None
        if self._target_s is not None:
            room_s = max(self._target_s - base_s, _LEAST_SHARE * base_s)
        else:
            room_s = base_s * max(_AUTO_SHARE, _STARTING_WEIGHT * starting / decoding)
        return max(int(room_s / token_s), _LEAST_TOKENS)
