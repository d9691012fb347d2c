"""ASCII text to token ids, word by word, each word tokenised once. Pure.

A byte-level tokenizer splits text into words by a regular expression and tokenises each word by
itself. For ASCII text Python's `re` finds the same words, and cached words take a sixth of the
tokenizer's time, most of which goes into offsets. There is an encoder only where the tokens are
certain to be the same.
"""

import json
import re
from typing import Any

from tokenizers import Tokenizer, models

# The cache takes a few MB at most.
_MAX_WORDS = 16_384
_MAX_WORD_CHARS = 64
# With more new words in a text the tokenizer is faster.
_MAX_NEW_WORDS = 64

# GPT-2's expression, the default of a byte-level pre-tokenizer.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# They don't change ASCII.
_NORMALIZERS = frozenset({"NFC", "NFD", "NFKC", "NFKD"})
# The ASCII characters with a Unicode property.
_PROPERTIES = {"L": "A-Za-z", "Lu": "A-Z", "Ll": "a-z", "N": "0-9", "Nd": "0-9"} | dict.fromkeys(
    ("Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me"), ""
)
# What means the same in Oniguruma's expressions and in Python's, properties aside.
_COMMON = re.compile(
    r"""(?:
    \(\?(?:i?:|!|=) | [)|]
    | \[\^?(?:\\[rnstd]|\\p\{\w+\}|[A-Za-z0-9]-[A-Za-z0-9]|[\w '/<>,;=~"!@%:])+\]
    | \\p\{\w+\}
    | (?:[?*+]|\{\d+(?:,\d*)?\})(?![?*+])
    | \\[rnsStdD] | [\w '/<>,;=~"!@%:-]
    )*""",
    re.VERBOSE,
)
_CLASS = re.compile(r"\[(?P<negated>\^?)(?P<members>[^]]+)\]|\\p\{\w+\}")
_PROPERTY = re.compile(r"\\p\{(\w+)\}")
_ASCII = [chr(code) for code in range(128)]


def _byte_alphabet() -> dict[str, int]:
    """Return the bytes by the characters that represent them in byte-level vocabularies.

    As in GPT-2: printable Latin-1 characters represent themselves, and the characters from U+0100
    on represent the other bytes, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(printable))
    chars = [*map(chr, printable), *(chr(0x100 + index) for index in range(len(others)))]
    return dict(zip(chars, printable + others, strict=True))


BYTE_OF = _byte_alphabet()
_BYTE_CHARS = {byte: char for char, byte in BYTE_OF.items()}


class WordEncoder:
    """Tokenises ASCII text word by word with a cache; `pattern` finds the words."""

    def __init__(self, model: models.Model, pattern: re.Pattern[str]) -> None:
        self._model = model
        self._find = pattern.findall
        self._known: dict[str, tuple[int, ...]] = {}

    def encode(self, text: str) -> list[int] | None:
        """Return the tokens of ASCII text; None if only the tokenizer can."""
        words = self._find(text)
        if "".join(words) != text:
            return None
        known, left = self._known, _MAX_NEW_WORDS
        ids: list[int] = []
        for word in words:
            try:
                ids += known[word]
            except KeyError:
                left -= 1
                if left < 0:
                    return None
                ids += self._learn(word)
        return ids

    def _learn(self, word: str) -> tuple[int, ...]:
        tokens = self._model.tokenize(word.translate(_BYTE_CHARS))
        ids = tuple([token.id for token in tokens])
        if len(word) <= _MAX_WORD_CHARS:
            if len(self._known) >= _MAX_WORDS:
                self._known.clear()  # common words are soon back
            self._known[word] = ids
        return ids


def word_encoder(tokenizer: Tokenizer) -> WordEncoder | None:
    """Return an encoder that gives the same tokens as a tokenizer with a BPE, if possible."""
    if any(token.normalized for token in tokenizer.get_added_tokens_decoder().values()):
        # They are searched in the normalised text, and split words.
        return None
    normalizers, steps = parts_of(tokenizer.normalizer), parts_of(tokenizer.pre_tokenizer)
    if any(normalizer["type"] not in _NORMALIZERS for normalizer in normalizers):
        return None
    source = _expression(steps)
    pattern = None if source is None else ascii_pattern(source)
    if pattern is None or not _agrees(pattern, tokenizer):
        return None
    return WordEncoder(tokenizer.model, pattern)


def parts_of(part: Any) -> list[dict[str, Any]]:
    """Return the description of a normalizer or pre-tokenizer; of a sequence, of all its parts."""
    return [] if part is None else _flat(json.loads(part.__getstate__()))


def _flat(described: dict[str, Any]) -> list[dict[str, Any]]:
    if described["type"] != "Sequence":
        return [described]
    parts = described.get("pretokenizers") or described.get("normalizers") or []
    return [inner for part in parts for inner in _flat(part)]


def _expression(steps: list[dict[str, Any]]) -> str | None:
    """Return the expression of a byte-level pre-tokenizer that only splits by one."""
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    *splits, byte_level = steps
    if byte_level["use_regex"]:
        return None if splits else _GPT2
    if len(splits) != 1 or splits[0]["type"] != "Split":
        return None
    (split,) = splits
    if split["behavior"] != "Isolated" or split["invert"]:
        return None
    source: str | None = split["pattern"].get("Regex")
    return source


def ascii_pattern(source: str) -> re.Pattern[str] | None:
    """Translate a tokenizer's regular expression (Oniguruma's) to Python's for ASCII text.

    Returns None if any element may not mean the same in both.
    """
    if not _COMMON.fullmatch(source):
        return None
    try:
        return re.compile(_CLASS.sub(_ascii_class, source), re.ASCII)
    except (KeyError, re.error):  # KeyError: a property that is not known
        return None


def _ascii_class(found: re.Match[str]) -> str:
    members = _PROPERTY.sub(lambda name: _PROPERTIES[name[1]], found["members"] or found[0])
    # A class without ASCII characters still needs one member.
    return f"[{found['negated'] or ''}{members or chr(0x80)}]"


def _agrees(pattern: re.Pattern[str], tokenizer: Tokenizer) -> bool:
    """Whether both split the same words from samples that hold every pair of characters."""
    split = tokenizer.pre_tokenizer.pre_tokenize_str
    pairs = ["".join(f"{first}{second}" for second in _ASCII) for first in _ASCII]
    # Contractions, and runs of spaces and newlines before other characters.
    runs = ["".join(f"{first}{second}{third}" for third in _ASCII)
            for first in "a1 \n-" for second in "' \r\n"]  # fmt: skip
    cased = " 'LL I'Ve x'S 'RE'm'T'd  aB ABc aBC\t\tx\n\n  \n y"
    samples = [*pairs, *runs, cased]
    return all(
        [word.translate(_BYTE_CHARS) for word in pattern.findall(sample)]
        == [word for word, _ in split(sample)]
        for sample in samples
    )
