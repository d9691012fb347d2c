r"""Regular expressions as JSON schemas and clients write them, made exact. Pure.

A grammar library reads a pattern in its own dialect and may drop what it doesn't know. Here a
pattern becomes one without doubts: whole-string instead of searched for, with every class and
escape spelled out, in the syntax of Rust's `regex` crate. Where dialects differ (``\d``, ``\w``,
``\s`` and ``.`` of ECMA-262 and of Python) the result matches only what both match.

It never matches a NUL character: inside of JSON strings llguidance 1.7 takes a class of all control
characters for one that also has quotes and backslashes.
"""

import re
from collections.abc import Collection, Iterable
from typing import NamedTuple


class MalformedError(ValueError):
    """It is not a regular expression, or not a schema."""


class UnsupportedError(ValueError):
    """A part of it, which the message names, can't be followed."""


class _Branch(NamedTuple):
    """One alternative: an exact pattern, and whether it is bound to the text's start and end."""

    text: str
    at_start: bool
    at_end: bool


# What both dialects match, and what one of them matches.
_NARROW = {"d": "0-9", "w": "0-9A-Za-z_", "s": r"\t\n\x0b\x0c\r\x20"}
_WIDE = {"d": r"\p{Nd}", "w": r"\p{L}\p{N}_", "s": r"\s\x1c-\x1f\x{feff}"}
_DOT = r"[^\x00\n\r\x{2028}\x{2029}]"
_ANY = r"[^\x00]*"
ANY_TEXT = "^(?s:.*)$"
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
_BOUNDS = re.compile(r"\{(\d+)(?:(,)(\d*))?\}")
_CODE = re.compile(r"x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|u\{([0-9a-fA-F]{1,6})\}|c([A-Za-z])")
_LOW_SURROGATE = re.compile(r"\\u([dD][c-fC-F][0-9a-fA-F]{2})")
_PROPERTY = re.compile(r"[pP](?:\{[\w=]+\}|[A-Z])")
_GROUP_NAME = re.compile(r"P?<[A-Za-z_]\w*>")
_ASSERTIONS = {"=": "look-ahead", "!": "look-ahead", "<=": "look-behind", "<!": "look-behind"}
_SURROGATES = range(0xD800, 0xE000)
_MAX_DEPTH = 100


def searched(pattern: str) -> str:
    """Return the exact pattern of the texts in which `pattern` is found.

    Raises:
        MalformedError, UnsupportedError: There is none.
    """
    branches = _Parser(pattern).parse()
    return _joined(
        f"{'' if branch.at_start else _ANY}{branch.text}{'' if branch.at_end else _ANY}"
        for branch in branches
    )


def whole(pattern: str) -> str:
    """Return the exact pattern of the texts that `pattern` matches from start to end.

    Raises:
        MalformedError, UnsupportedError: There is none.
    """
    return _joined(branch.text for branch in _Parser(pattern).parse())


def other_than(texts: Collection[str]) -> str:
    """Return the exact pattern of all texts but these."""
    beginnings: dict[str, set[str]] = {"": set()}
    for text in texts:
        for size in range(len(text)):
            beginnings.setdefault(text[:size], set()).add(text[size])
    # From the longest, so that what may follow each beginning is known.
    rest: dict[str, str] = {}
    for begun in sorted(beginnings | dict.fromkeys(texts), key=len, reverse=True):
        following = sorted(beginnings.get(begun, ()))
        known = "".join(map(_letter, following))
        parts = [_letter(next_) + rest.pop(begun + next_) for next_ in following]
        parts.append(rf"[^\x00{known}](?s:.*)" if known else "(?s:.+)")
        rest[begun] = _joined(parts) + ("" if begun in texts else "?")
    return f"^{rest['']}$"


def _letter(character: str) -> str:
    return f"\\x{{{ord(character):x}}}"


def _joined(texts: Iterable[str]) -> str:
    return f"(?:{'|'.join(texts)})"


def _character(code: int) -> str:
    if code in _SURROGATES:
        raise UnsupportedError("half a surrogate pair")
    if code == 0:
        raise UnsupportedError("a NUL character")
    character = chr(code)
    return character if character.isalnum() and code < 0x80 else f"\\x{{{code:x}}}"


class _Parser:
    """Reads a pattern once, from left to right."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0
        self._depth = 0

    def parse(self) -> list[_Branch]:
        branches = self._branches()
        if self._at < len(self._pattern):
            raise MalformedError("unbalanced parenthesis")
        return branches

    def _peek(self) -> str:
        return self._pattern[self._at : self._at + 1]

    def _take(self, text: str) -> bool:
        if not self._pattern.startswith(text, self._at):
            return False
        self._at += len(text)
        return True

    def _match(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self._pattern, self._at)
        if found:
            self._at = found.end()
        return found

    def _branches(self) -> list[_Branch]:
        branches = self._branch()
        while self._take("|"):
            branches += self._branch()
        return branches

    def _branch(self) -> list[_Branch]:
        """Read one alternative; a group that is all of it may have anchors of its own."""
        texts: list[str] = []
        at_start = at_end = False
        anchored: list[_Branch] = []
        while (character := self._peek()) and character not in "|)":
            self._at += 1
            if character == "^":
                if texts or at_end:
                    raise UnsupportedError("`^` after other characters")
                at_start = True
                continue
            if character == "$":
                at_end = True
                continue
            if at_end or anchored:
                raise UnsupportedError("`^` or `$` inside a group, or `$` before other characters")
            if character == "(":
                inner = self._group()
                if any(branch.at_start or branch.at_end for branch in inner):
                    anchored = inner
                atom = _joined(branch.text for branch in inner)
            else:
                atom = self._atom(character)
            texts.append(self._quantified(atom, anchored=bool(anchored)))
        if anchored:
            if len(texts) > 1:
                raise UnsupportedError("`^` or `$` inside a group")
            return [
                _Branch(one.text, one.at_start or at_start, one.at_end or at_end)
                for one in anchored
            ]
        return [_Branch("".join(texts), at_start, at_end)]

    def _group(self) -> list[_Branch]:
        if self._take("?") and not self._take(":"):
            for sign, name in _ASSERTIONS.items():
                if self._take(sign):
                    raise UnsupportedError(f"{name} (`(?{sign}`)")
            if not self._match(_GROUP_NAME):
                raise UnsupportedError(f"`(?{self._peek()}`")
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise UnsupportedError(f"more than {_MAX_DEPTH} nested groups")
        branches = self._branches()
        self._depth -= 1
        if not self._take(")"):
            raise MalformedError("unbalanced parenthesis")
        return branches

    def _quantified(self, atom: str, *, anchored: bool) -> str:
        """Read what follows an atom; laziness makes no difference to what matches."""
        bounds = ""
        if (character := self._peek()) and character in "*+?":
            self._at += 1
            bounds = character
        elif found := self._match(_BOUNDS):
            least, comma, most = found.groups()
            if most and int(least) > int(most):
                raise MalformedError(f"`{found.group()}` has its bounds the wrong way round")
            bounds = f"{{{int(least)}{comma or ''}{most or ''}}}"
        if not bounds:
            return atom
        if anchored:
            raise UnsupportedError("`^` or `$` inside a group")
        self._take("?")
        if (character := self._peek()) and character in "*+?":
            raise UnsupportedError(f"`{character}` after a quantifier")
        return atom + bounds

    def _atom(self, character: str) -> str:
        if character == ".":
            return _DOT
        if character == "[":
            return self._class()
        if character == "\\":
            return self._escape()
        if character in "*+?":
            raise MalformedError(f"nothing to repeat before `{character}`")
        if character == "{" and self._peek() == ",":
            raise UnsupportedError("`{,`")
        return _character(ord(character))

    def _escape(self) -> str:
        """Read what follows a backslash outside of classes."""
        character = self._peek()
        if character in ("b", "B"):
            raise UnsupportedError(f"word boundaries (`\\{character}`)")
        if (character.isdigit() and character != "0") or character == "k":
            raise UnsupportedError(f"back-references (`\\{character}`)")
        shorthand = self._shorthand(negated=False)
        if shorthand:
            return rf"[[{shorthand}]&&[^\x00]]"
        return _character(self._escaped_code())

    def _shorthand(self, *, negated: bool) -> str:
        r"""Take a set such as ``\d`` and return it for use in a class; empty if none comes next."""
        found = self._match(_PROPERTY)
        if found:
            return f"\\{found.group()}"
        character = self._peek()
        if not character or character.lower() not in _NARROW:
            return ""
        self._at += 1
        inverse = character.isupper()
        members = (_WIDE if negated != inverse else _NARROW)[character.lower()]
        return f"[^{members}]" if inverse else members

    def _escaped_code(self) -> int:
        """Take an escaped character."""
        if found := self._match(_CODE):
            if letter := found.group(4):
                return ord(letter) % 32
            code = int("".join(part for part in found.groups() if part), 16)
            if code in _SURROGATES and (low := self._match(_LOW_SURROGATE)):
                code = 0x10000 + ((code - 0xD800) << 10) + int(low.group(1), 16) - 0xDC00
            if code > 0x10FFFF:
                raise MalformedError("a code point above U+10FFFF")
            return code
        character = self._peek()
        if not character:
            raise MalformedError("it ends with a backslash")
        self._at += 1
        if character in _CONTROLS:
            return _CONTROLS[character]
        if character == "0" and not self._peek().isdigit():
            return 0
        if character.isalnum():
            raise UnsupportedError(f"`\\{character}`")
        return ord(character)

    def _class(self) -> str:
        negated = self._take("^")
        if self._peek() == "]":
            raise UnsupportedError("a class that begins with `]`")
        parts: list[str] = []
        while not self._take("]"):
            first = self._member(negated=negated)
            if not (self._peek() == "-" and self._pattern[self._at + 1 : self._at + 2] != "]"):
                parts += [first] if isinstance(first, str) else _range(first, first)
                continue
            self._at += 1
            last = self._member(negated=negated)
            if isinstance(first, str) or isinstance(last, str):
                raise UnsupportedError("a range from or to a set in a class")
            if first > last:
                raise MalformedError("a range in a class has its ends the wrong way round")
            parts += _range(first, last)
        return rf"[[{'^' if negated else ''}{''.join(parts)}]&&[^\x00]]"

    def _member(self, *, negated: bool) -> int | str:
        """Take a class's next character, as its code, or set, as text."""
        character = self._peek()
        if not character:
            raise MalformedError("unterminated class")
        self._at += 1
        if character != "\\":
            return ord(character)
        if self._take("b"):
            return 8
        return self._shorthand(negated=negated) or self._escaped_code()


def _range(first: int, last: int) -> list[str]:
    """Return a range without NUL and the surrogates."""
    parts = [(max(first, 1), min(last, 0xD7FF)), (max(first, 0xE000), last)]
    return [f"{_character(low)}-{_character(high)}" for low, high in parts if low <= high]
