"""Prompts, and the request bodies around them."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from bench.load.options import BodyOptions, PromptOptions, UsageError

# Short, common words: in most vocabularies each is one token with its leading space, so that a
# count of words is close to a count of tokens. `usage` has the exact count.
_WORD_TEXT = (
    "time year people way day man thing woman life child world school state family student group "
    "country problem hand part place case week company system program question work government "
    "number night point home water room mother area money story fact month lot right study book "
    "eye job word business issue side kind head house service friend father power hour game line "
    "end member law car city community name president team minute idea body information back "
    "parent face others level office door health person art war history party result change "
    "morning reason research girl guy moment air teacher force education foot boy age policy "
    "music market sense nation plan college interest death course someone experience behind "
    "window river mountain letter summer winter garden paper north south east west light"
)
WORDS = _WORD_TEXT.split()
_HEAD_WORDS = 8  # 128^8 heads: two runs with different seeds do not meet
_STRIDE = 0x9E3779B97F4A7C15  # odd, so that index * stride never repeats modulo a power of two
_TEXT_WORDS = 8192


class Prompt(msgspec.Struct, frozen=True):
    """One prompt: plain text, or a conversation as the file gave it.

    `max_tokens` is that of its answer, if the file gave it.
    """

    prompt: str | None = None
    messages: list[dict[str, Any]] | None = None
    max_tokens: int | None = None


class Prompts:
    """Deterministic prompts by request index."""

    def __init__(self, options: PromptOptions) -> None:
        self._options = options
        self._offset = random.Random(options.seed).getrandbits(64)
        choose = random.Random(options.seed ^ _STRIDE)
        self._text = choose.choices(WORDS, k=_TEXT_WORDS)
        self._from_file = _read(Path(options.file)) if options.file else None

    @property
    def has_conversations(self) -> bool:
        """Whether some prompt is a conversation, which only the chat endpoint takes."""
        return any(prompt.messages is not None for prompt in self._from_file or ())

    def get(self, index: int) -> Prompt:
        """Return the prompt of the request with this index (negative ones are for warming up)."""
        if self._from_file is not None:
            return self._from_file[index % len(self._from_file)]
        return Prompt(prompt=" ".join(self._words(0 if self._options.same else index)))

    def max_tokens(self, index: int) -> int | None:
        """Return the most tokens of the answer to the prompt, if the file gives them."""
        return self.get(index).max_tokens if self._from_file is not None else None

    def _words(self, index: int) -> list[str]:
        # A prefix cache compares from the front, so the unique part must come first. For the rest a
        # slice of one prepared text costs less than choosing every word.
        size = self._options.tokens
        head_size = min(size, _HEAD_WORDS)
        code = (self._offset + index * _STRIDE) % len(WORDS) ** head_size
        head = []
        for _ in range(head_size):
            code, digit = divmod(code, len(WORDS))
            head.append(WORDS[digit])
        missing = size - head_size
        start = (index * 37) % _TEXT_WORDS
        tail = self._text[start : start + missing]
        while len(tail) < missing:
            tail += self._text[: missing - len(tail)]
        return head + tail


def _read(path: Path) -> Sequence[Prompt]:
    prompts: list[Prompt] = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"cannot read the prompts: {error}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            prompt = msgspec.json.decode(line, type=Prompt)
        except msgspec.DecodeError as error:
            raise UsageError(f"{path}, line {number}: {error}") from None
        if (prompt.prompt is None) == (prompt.messages is None):
            raise UsageError(f"{path}, line {number}: give either `prompt` or `messages`")
        prompts.append(prompt)
    if not prompts:
        raise UsageError(f"{path} has no prompts")
    return prompts


class Bodies:
    """Encoded request bodies by request index."""

    def __init__(self, model: str, options: BodyOptions, prompts: Prompts) -> None:
        if options.endpoint != "chat" and prompts.has_conversations:
            raise UsageError("the completions endpoint needs `prompt`, the file has `messages`")
        self._prompts = prompts
        self._chat = options.endpoint == "chat"
        self._common = _common_fields(model, options)
        self._max_tokens = options.max_tokens
        self._encode = msgspec.json.Encoder().encode

    def prompt(self, index: int) -> str | None:
        """Return the text of the prompt of the request with this index, if it is plain text."""
        return self._prompts.get(index).prompt

    def max_tokens(self, index: int) -> int:
        """Return the most tokens of the answer to the request with this index."""
        return self._prompts.max_tokens(index) or self._max_tokens

    def get(self, index: int) -> bytes:
        """Return the JSON body of the request with this index."""
        prompt = self._prompts.get(index)
        if self._chat:
            messages = prompt.messages or [{"role": "user", "content": prompt.prompt}]
            fields = {"messages": messages, **self._common}
        else:
            fields = {"prompt": prompt.prompt, **self._common}
        if prompt.max_tokens is not None:
            limits = fields.keys() & {"max_tokens", "min_tokens"}
            fields |= dict.fromkeys(limits, prompt.max_tokens)
        return self._encode(fields)


def _common_fields(model: str, options: BodyOptions) -> dict[str, Any]:
    fields: dict[str, Any] = {"model": model, "max_tokens": options.max_tokens}
    if options.ignore_eos:
        fields |= {"ignore_eos": True, "min_tokens": options.max_tokens}
    if options.temperature is not None:
        fields["temperature"] = options.temperature
    if options.stream:
        fields["stream"] = True
        if options.include_usage:
            fields["stream_options"] = {"include_usage": True}
    return fields | options.extra
