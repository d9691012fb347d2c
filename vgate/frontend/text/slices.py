"""Where a text can be cut so that its parts have the tokens of the whole. Pure.

A tokenizer that splits text into words tokenises each by itself. A cut is safe where one word
surely ends and the next does not depend on what comes before. Each kind of cut is tried on samples
with the tokenizer's own steps, and only used if it holds for all of them.
"""

import re
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import product

from tokenizers import Tokenizer

from vgate.errors import InvalidValueError

# About 4,000 tokens, which take a few milliseconds.
SLICE_CHARS = 16_384
# The most characters without a cut; the library takes about 100 bytes of memory for each.
MAX_UNCUT_CHARS = 1_048_576
# A search takes about a millisecond for so many.
_SEARCH_CHARS = 65_536

# In text of most kinds one of these comes soon: before a space or punctuation, after a line break,
# between letters and digits. Each with the texts around it, for the samples.
_KINDS = (
    (r"(?<=[^\W_])(?= [^\W_])", "", " "),
    (r"(?<=[^\W_]\n)(?=[^\W_])", "\n", ""),
    (r"(?<=[^\W_])(?=[!-&(-/:-@\[-^`{-~，。、；：！？「」（）])", "", "."),  # noqa: RUF001
    (r"(?<=[^\W_])(?=[!-&(-/:-@\[-^`{-~，。、；：！？「」（）])", "", '"'),  # noqa: RUF001
    (r"(?<=[A-Za-z])(?=[0-9])", "", ""),
)
_BEFORE, _AFTER = "aZ1é中", "aZ1中"
_AROUND = ("", *map("".join, product("a1 \n.'中", repeat=2)))


class Slices:
    """Cuts long texts for one tokenizer.

    It finds the `added` tokens in a text before it splits it, so no cut may divide one.
    """

    def __init__(self, tokenizer: Tokenizer, added: Iterable[str]) -> None:
        self._tokenizer = tokenizer
        self._added = tuple(added)

    @cached_property
    def _cuts(self) -> re.Pattern[str]:
        """The expression of all kinds of cuts that are safe; of none, it never matches."""
        unsafe = set()
        for expression, before, after in _KINDS:
            inside = any(re.search(expression, token) for token in self._added)
            if inside or not _holds(self._tokenizer, expression, before, after):
                unsafe.add(expression)
        safe = dict.fromkeys(kind[0] for kind in _KINDS if kind[0] not in unsafe)
        return re.compile("|".join(safe) or "(?!)")

    def of(self, text: str) -> Iterator[str]:
        """Return the text in slices of about `SLICE_CHARS`.

        Raises:
            InvalidValueError: There is no place to cut it.
        """
        start = 0
        while len(text) - start > 2 * SLICE_CHARS:
            end = self._cut(text, start)
            yield text[start:end]
            start = end
        yield text[start:]

    def _cut(self, text: str, start: int) -> int:
        position, limit = start + SLICE_CHARS, min(len(text), start + MAX_UNCUT_CHARS)
        while position < limit:
            # A kind looks at two characters after the cut at most.
            found = self._cuts.search(text, position, position + _SEARCH_CHARS + 2)
            if found is not None:
                return found.start()
            position += _SEARCH_CHARS
        if limit < len(text):
            message = (
                f"the text has more than {MAX_UNCUT_CHARS} characters in a row without a space or "
                "punctuation, or the model's tokenizer needs a whole text; send a shorter one"
            )
            raise InvalidValueError(message)
        return len(text)


def _holds(tokenizer: Tokenizer, expression: str, before: str, after: str) -> bool:
    """Whether both sides of a kind of cut have the same words alone as together."""
    if tokenizer.pre_tokenizer is None:
        return False
    find = re.compile(expression)

    def words(text: str) -> list[str]:
        if tokenizer.normalizer is not None:
            text = tokenizer.normalizer.normalize_str(text)
        return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]

    for first, second in product(_BEFORE, _AFTER):
        for left, right in [*product(_AROUND, ("", "a")), *product(("", "a"), _AROUND)]:
            start, end = f"{left}{first}{before}", f"{after}{second}{right}"
            text = start + end
            if any(found.start() == len(start) for found in find.finditer(text)) and (
                words(text) != words(start) + words(end)
            ):
                return False
    return True
