"""What both sides generate."""

import json
import random
from pathlib import Path

import msgspec


class Workload(msgspec.Struct, frozen=True):
    """One measurement: batches of sequences that run at the same time.

    Attributes:
        output_tokens: Exact number of tokens that every sequence generates.
        rounds: Batches; each begins when the previous one has ended.
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
        """Return token ids by round and sequence; other seeds have no prefix in common."""
        draw = random.Random(seed)
        return [
            [
                [draw.randrange(vocabulary) for _ in range(self.prompt_tokens)]
                for _ in range(self.sequences)
            ]
            for _ in range(self.rounds)
        ]


def vocabulary_size(model: str | Path) -> int:
    """Return how many token ids the model has."""
    size: int = json.loads(Path(model, "config.json").read_bytes())["vocab_size"]
    return size
