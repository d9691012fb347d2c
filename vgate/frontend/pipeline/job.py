"""A generation made ready for the engine."""

from __future__ import annotations

import msgspec

from vgate.frontend.answers.choice import Choice, DecodeOptions
from vgate.frontend.engines.sequence import Sequence
from vgate.frontend.engines.served_model import ServedModel
from vgate.frontend.pipeline.generation import Generation
from vgate.frontend.text import TextModel, TokenTexts
from vgate.wire.messages import GenerateOptions
from vgate.wire.sampling import SamplingParams


class EngineJob(msgspec.Struct, frozen=True, kw_only=True):
    """A generation that is checked, tokenised and complete. API rooms see it as a `Job`.

    Attributes:
        generation: What the client asks for.
        model, text: The model that serves it, and its text side.
        name: The name that the answer carries: the model's first, or an adapter's.
        prompts, packed: Token ids of each prompt, and the same as the engine gets them.
        sampling, options, priority: Complete parameters.
        fields: The generation's fields for the subjects of the engine's failures.
        decoding: How the answer's tokens are read.
        digest: Of everything that shapes the answer; b"" if it is neither cached nor shared.
        read_cache, write_cache: What the client's Cache-Control allows.
        created: Unix time at which the job was made, in seconds.
    """

    generation: Generation
    model: ServedModel
    text: TextModel
    name: str
    prompts: list[list[int]]
    packed: list[bytes]
    sampling: SamplingParams
    options: GenerateOptions
    priority: int
    fields: dict[str, str]
    decoding: DecodeOptions
    digest: bytes
    read_cache: bool
    write_cache: bool
    created: int

    @property
    def choices_each(self) -> int:
        """Answers to each prompt."""
        return self.generation.choices

    @property
    def prompt_tokens(self) -> list[int]:
        """Lengths of the prompts."""
        return [len(prompt) for prompt in self.prompts]

    @property
    def token_texts(self) -> TokenTexts:
        """The texts of the model's tokens."""
        return self.text.token_texts

    @property
    def reasons(self) -> bool:
        """Whether reasoning is split off the answer."""
        return self.decoding.reasoning is not None

    def prompt_text(self, index: int) -> str:
        """Return a prompt's text, as it was sent where that is possible."""
        given = getattr(self.generation.prompt, "prompts", None)
        if given and isinstance(given[index], str) and self.generation.truncation is None:
            text: str = given[index]
            return text
        skip = self.decoding.skip_special_tokens
        return self.text.tokenizer.decode(self.prompts[index], skip_special_tokens=skip)

    def make_choice(self, sequence: Sequence) -> Choice:
        """Make the choice that reads a sequence."""
        return Choice(
            sequence,
            self.prompts[sequence.index // self.choices_each],
            self.decoding,
            logprobs=self.options.logprobs is not None,
        )
