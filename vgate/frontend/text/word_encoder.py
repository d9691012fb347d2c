"""ASCII text to token ids, word by word, each word tokenised once. Pure.

A byte-level tokenizer cuts text into words by a regular expression and makes tokens of each word by
itself. For ASCII text Python's own expressions cut the same words, and a look-up gives the tokens
of a word that was seen before: a sixth of the tokenizer's time, most of which goes into keeping
track of offsets. Where that is not certain to give the same tokens there is no such encoder.
"""

from __future__ import annotations

import json
import re
from typing import Any

from tokenizers import Tokenizer, models

# A few MB at most: a word's text and tokens, and what Python keeps beside them.
_MAX_WORDS = 16_384
_MAX_WORD_CHARS = 64
# Past so many new words in a text the tokenizer is faster.
_MAX_NEW_WORDS = 64

# What a byte-level pre-tokenizer cuts by if it has no expression of its own (GPT-2's).
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
# They leave ASCII as it is.
_NORMALIZERS = frozenset({"NFC", "NFD", "NFKC", "NFKD"})
# ASCII's share of what Unicode calls so.
_PROPERTIES = {"L": "A-Za-z", "Lu": "A-Z", "Ll": "a-z", "N": "0-9", "Nd": "0-9"} | dict.fromkeys(
    ("Lt", "Lm", "Lo", "M", "Mn", "Mc", "Me"), ""
)
_ELEMENT = re.compile(
    r"""(?P<group>\(\?(?:i?:|!|=) | [)|])
    | \[(?P<negated>\^?)(?P<members>(?:\\[rnstd]|\\p\{\w+\}|[A-Za-z0-9]-[A-Za-z0-9]
        |[\w '/<>,;=~"!@%:])+)]
    | \\p\{(?P<property>\w+)}
    | (?P<times>(?:[?*+]|\{\d+(?:,\d*)?})(?![?*+]))
    | (?P<char>\\[rnsStdD]|[\w '/<>,;=~"!@%:-])""",
    re.VERBOSE,
)
_PROPERTY = re.compile(r"\\p\{(\w+)\}")
_ASCII = [chr(code) for code in range(128)]


def _byte_alphabet() -> dict[str, int]:
    """Return the bytes by the characters that represent them in byte-level vocabularies.

    As in GPT-2: printable Latin-1 characters represent themselves, and the characters from U+0100
    on represent the other bytes, in order.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    alphabet = {chr(byte): byte for byte in printable}
    alphabet.update({chr(0x100 + place): byte for place, byte in enumerate(others)})
    return alphabet


BYTE_OF = _byte_alphabet()
_BYTE_CHARS = {byte: char for char, byte in BYTE_OF.items()}


class WordEncoder:
    """See the module.

    Args:
        model: The tokenizer's model.
        pattern: Finds the words of ASCII text.
    """

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
                # Common words are soon back.
                self._known.clear()
            self._known[word] = ids
        return ids


def word_encoder(tokenizer: Tokenizer) -> WordEncoder | None:
    """Return an encoder that gives the same tokens as a tokenizer with a BPE, if possible."""
    if any(token.normalized for token in tokenizer.get_added_tokens_decoder().values()):
        # They are found in the normalised text, and cut words.
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
    """Return what a normalizer or pre-tokenizer is, and of a sequence what its parts are."""
    if part is None:
        return []
    described = json.loads(part.__getstate__())
    return _flat(described)


def _flat(described: dict[str, Any]) -> list[dict[str, Any]]:
    if described["type"] != "Sequence":
        return [described]
    parts = described.get("pretokenizers") or described.get("normalizers") or []
    return [inner for part in parts for inner in _flat(part)]


def _expression(steps: list[dict[str, Any]]) -> str | None:
    """Return what a byte-level pre-tokenizer cuts by, if it does nothing else."""
    if not steps or steps[-1]["type"] != "ByteLevel" or steps[-1]["add_prefix_space"]:
        return None
    *splits, byte_level = steps
    if byte_level["use_regex"]:
        return None if splits else _GPT2
    if len(splits) != 1 or splits[0]["type"] != "Split":
        return None
    (split,) = splits
    whole = split["behavior"] == "Isolated" and not split["invert"]
    source: str | None = split["pattern"].get("Regex")
    return source if whole else None


def ascii_pattern(source: str) -> re.Pattern[str] | None:
    """Return an expression of a tokenizer (Oniguruma's) for ASCII text in Python's terms.

    None for one with anything that isn't known to mean the same in both.
    """
    out, place = [], 0
    while place < len(source):
        element = _ELEMENT.match(source, place)
        if element is None:
            return None
        part = _translated(element)
        if part is None:
            return None
        out.append(part)
        place = element.end()
    try:
        return re.compile("".join(out), re.ASCII)
    except re.error:
        return None


def _translated(element: re.Match[str]) -> str | None:
    name, members = element["property"], element["members"]
    if name is None and members is None:
        return element[0]
    inside = rf"\p{{{name}}}" if members is None else members
    if any(found not in _PROPERTIES for found in _PROPERTY.findall(inside)):
        return None
    inside = _PROPERTY.sub(lambda found: _PROPERTIES[found[1]], inside)
    if not inside:
        # Nothing in ASCII.
        inside = r"\x80"
    return f"[{element['negated'] or ''}{inside}]"


def _agrees(pattern: re.Pattern[str], tokenizer: Tokenizer) -> bool:
    """Say whether both cut alike what has any two characters side by side, and more."""
    cut = tokenizer.pre_tokenizer.pre_tokenize_str
    pairs = ["".join(f"{first}{second}" for second in _ASCII) for first in _ASCII]
    # Contractions, and runs of spaces and line ends before other things.
    runs = ["".join(f"{first}{second}{third}" for third in _ASCII)
            for first in "a1 \n-" for second in "' \r\n"]  # fmt: skip
    cased = " 'LL I'Ve x'S 'RE'm'T'd  aB ABc aBC\t\tx\n\n  \n y"
    samples = [*pairs, *runs, cased]
    return all(
        [word.translate(_BYTE_CHARS) for word in pattern.findall(sample)]
        == [word for word, _ in cut(sample)]
        for sample in samples
    )
