"""What is generated, the same for both sides."""

import json
import random
from pathlib import Path

import msgspec


class Workload(msgspec.Struct, frozen=True):
    """One measurement: `rounds` batches, one after the other, each of `sequences` at once.

    Attributes:
        sequences: Sequences that run at once.
        prompt_tokens: Length of every prompt.
        output_tokens: Tokens that every sequence generates, none less.
        rounds: Batches of one measurement; the first of the next begins when the last has ended.
    """

    sequences: int = 64
    prompt_tokens: int = 32
    output_tokens: int = 128
    rounds: int = 4

    @property
    def tokens(self) -> int:
        """Tokens that one measurement generates."""
        return self.sequences * self.output_tokens * self.rounds

    def prompts(self, vocabulary: int, seed: int) -> list[list[list[int]]]:
        """Return token ids by round and sequence; another seed shares no prefix worth caching."""
        draw = random.Random(seed)
        return [
            [
                [draw.randrange(vocabulary) for _ in range(self.prompt_tokens)]
                for _ in range(self.sequences)
            ]
            for _ in range(self.rounds)
        ]


def vocabulary_size(model: Path) -> int:
    """Return how many token ids the model has."""
    size: int = json.loads((model / "config.json").read_bytes())["vocab_size"]
    return size
