"""How a tokenizer puts two texts together, for models that read both at once. Pure."""

from typing import NamedTuple

from tokenizers import Encoding, Tokenizer

# What is tokenised of a long text to find its first tokens: so many characters for each of them,
# and more if that isn't enough.
_CHARS_PER_TOKEN = 16
_LEAST_CHARS = 1024


class PairTemplate(NamedTuple):
    """The special tokens around and between the two texts.

    Attributes:
        second_from: Where the token types of the second text begin, counted from the first token
            of `between`; None if all tokens have the same type.
    """

    before: list[int]
    between: list[int]
    after: list[int]
    second_from: int | None

    @property
    def added(self) -> int:
        """How many tokens are added."""
        return len(self.before) + len(self.between) + len(self.after)


def pair_template(library: Tokenizer) -> PairTemplate:
    """Return what a tokenizer adds to a pair of texts, as it shows with a short one."""
    # Of some characters a tokenizer makes no tokens.
    for text in ("a", "1", "."):
        pair = library.encode(text, text)
        first = [at for at, of in enumerate(pair.sequence_ids) if of == 0]
        second = [at for at, of in enumerate(pair.sequence_ids) if of == 1]
        if first and second:
            start, end = first[-1] + 1, second[0]
            types = pair.type_ids.index(1) - start if 1 in pair.type_ids[start:] else None
            ids = pair.ids
            return PairTemplate(ids[: first[0]], ids[start:end], ids[second[-1] + 1 :], types)
    return PairTemplate([], [], [], None)


def kept_of_pair(first: int, second: int, room: int) -> tuple[int, int]:
    """Return how many tokens of each text are kept so that they fit: the longer one is cut first.

    If both must be cut, each gets half, as by the library's strategy "longest_first".
    """
    if first + second <= room:
        return first, second
    shorter = min(first, second)
    if 2 * shorter > room:
        # The library gives the odd token to the longer one; to the second of two equal ones.
        small, large = room // 2, room - room // 2
    else:
        small, large = shorter, room - shorter
    return (large, small) if first > second else (small, large)


def first_tokens(library: Tokenizer, text: str, tokens: int) -> str:
    """Return the start of a text that has at most so many tokens, as vLLM cuts it.

    The text is cut and not its tokens, because it may have others without what came after.
    """
    size = max(_LEAST_CHARS, tokens * _CHARS_PER_TOKEN)
    # The last tokens of a part may not be those of the whole.
    while size < len(text) and len(_encoded(library, text[:size])) <= 2 * tokens:
        size *= 2
    text = text[:size]
    while text:
        encoding = _encoded(library, text)
        if len(encoding) <= tokens:
            break
        # Tokens of one character share its place. A list of all places would take long to make.
        last, after = encoding.token_to_chars(tokens - 1), encoding.token_to_chars(tokens)
        assert last is not None
        assert after is not None
        text = text[: min(last[1], after[0], len(text) - 1)]
    return text


def _encoded(library: Tokenizer, text: str) -> Encoding:
    # It lets other threads run, unlike `encode`: 4 s for 3 MB.
    (encoding,) = library.encode_batch([text], add_special_tokens=False)
    return encoding
