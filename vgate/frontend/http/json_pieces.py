"""Decodes long JSON in pieces and encodes it in slices, so that other threads run in between.

One call of the decoder holds the interpreter until it returns: 25 ms for 4 M escapes, and 4 s for
500,000 numbers such as 1e300 (8 µs each). So a document is cut after values. Each piece is made
valid JSON: the brackets of all lists and objects around it are opened before it and closed after
it. What it decodes to is then added to the lists and objects of the pieces before. A long text is a
piece of its own and is decoded in slices. To encode 4 M token ids or line breaks at once would keep
the interpreter for 50 ms, and so would freeing such a list.
"""

import json
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NoReturn

import msgspec

# What the decoder gets at once; it takes up to a millisecond.
_PIECE_BYTES = 8192
_SLICE_BYTES = 65_536

# Values of a list, or characters: each takes up to 20 ns to encode and 15 ns to free.
_MANY = 65_536

# A document up to _LONG_BYTES is decoded at once, in up to 10 ms, unless more than _FEW_NUMBERS of
# its numbers are slow to decode. One up to _SHORT_BYTES can't have that many.
_LONG_BYTES = 1024 * 1024
_SHORT_BYTES = 1024
_FEW_NUMBERS = 512
_FEW_EXPONENTS = 16

_QUOTE, _LIST, _OBJECT = b'"[{'
_ENDS = {_LIST: b"]", _OBJECT: b"}"}
# Brackets and texts of a document without escaped quotes. The match of a text includes the white
# space after it and, as a group, the colon that makes it a key. The alternatives begin with single
# characters because `re` searches for those fast.
_STRUCTURE = re.compile(rb'\[|\{|\]|\}|"(?:[^"]*+"[ \t\r\n]*+(:)?)?')
_COLON = re.compile(rb"[ \t\r\n]*:")
_HIGH_SURROGATE = re.compile(rb"\\u[dD][89abAB]..\Z", re.DOTALL)
_SURROGATES = re.compile(rb"\\u[dD][89abAB]..\\u[dD][c-fC-F]..", re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_POSITION = re.compile(r"\(byte (\d+)\)")
# The longest escape.
_ESCAPE_BYTES = len(rb"\u0000")
# Replaces an escaped quote or backslash, so that each one that is left is syntax.
_PAIR, _PAIR_END = b"\x01\x02", 2
# Makes all exponents and all digits equal, so that slow numbers can be counted: those with an
# exponent, and long ones. Such characters in texts are counted too, which does no harm.
_ALIKE = bytes.maketrans(b"123456789+-E", b"00000000000e")
_EXPONENT, _DIGITS = b"0e0", b"0" * 512

# When an object is opened again, the key of the value that was last in it. Random, so that no
# client can use it.
_LAST = secrets.token_hex(8)
_AGAIN = {_LIST: b"[", _OBJECT: b'{"%b":' % _LAST.encode()}


def decode_json(document: bytes) -> Any:
    """Return a JSON document as builtin types, decoded in pieces if that would take long.

    Raises:
        msgspec.DecodeError: It isn't JSON.
        msgspec.ValidationError: A number is too large; its path may be missing.
        UnicodeDecodeError: It isn't UTF-8.
        RecursionError: It is nested too deeply.
    """
    if not is_costly(document):
        return msgspec.json.decode(document)
    return _Pieces(document).decoded()


def emptied(values: list[Any]) -> Iterator[list[Any]]:
    """Yield a list's values in slices, the last ones first; each is taken out of it after that."""
    while values:
        yield values[-_MANY:]
        del values[-_MANY:]


def encode_emptied(values: list[Any]) -> bytes:
    """Return a list as JSON, and empty it."""
    parts = [msgspec.json.encode(some)[1:-1] for some in emptied(values)]
    # Others can run while `join` copies much, unlike with `%`.
    return b"".join((b"[", b",".join(reversed(parts)), b"]"))


def encode_text(text: str) -> bytes:
    """Return a text as JSON."""
    starts = range(0, len(text), _MANY)
    parts = [msgspec.json.encode(text[start : start + _MANY])[1:-1] for start in starts]
    return b"".join((b'"', *parts, b'"'))


def is_costly(document: bytes) -> bool:
    """Return whether decoding a document at once might keep the interpreter for milliseconds."""
    if len(document) <= _SHORT_BYTES:
        return False
    if len(document) > _LONG_BYTES:
        return True
    # There is at most one number more than commas.
    if len(document) <= _SLICE_BYTES and document.count(b",") <= _FEW_NUMBERS:
        return False
    alike = document.translate(_ALIKE)
    return alike.count(_EXPONENT) > _FEW_NUMBERS or alike.count(_DIGITS) > _FEW_NUMBERS


class _Pieces:
    """Decodes one document.

    The scan only looks at brackets and texts. All that it passes is decoded, so other mistakes are
    found there.
    """

    def __init__(self, document: bytes) -> None:
        self._document = document
        self._masked = _masked(document)
        # The brackets that are open where the scan is, outermost first, and where each one's last
        # key begins.
        self._open = bytearray()
        self._keys: list[int] = []
        # By depth: where a key begins and what it is, as many pieces may be in one value.
        self._names: dict[int, tuple[int, str]] = {}
        # Where the piece begins, the brackets that are open there, and the lists and objects that
        # they have become so far.
        self._start = 0
        self._before = b""
        self._spine: list[Any] = []
        self._root: Any = None

    def decoded(self) -> Any:
        """Return the document; raises as `decode_json` does."""
        at, end = 0, len(self._document)
        while at < end:
            at = self._window(at, min(at + _SLICE_BYTES, end))
        self._take(end, b"")
        return self._root

    def _window(self, at: int, until: int) -> int:
        """Scan from one position to another, neither inside a text; return where to go on.

        That is the document's end once the outermost value has ended, or if it can't be valid.
        """
        before = at
        for found in _STRUCTURE.finditer(self._masked, at, until):
            start, at = found.start(), found.end()
            if start - self._start > _PIECE_BYTES:
                self._cut(before, start)
            before = at
            mark = self._masked[start]
            if mark in _ENDS:
                self._open.append(mark)
                self._keys.append(start)
                if len(self._open) > sys.getrecursionlimit():
                    return len(self._document)
            elif mark == _QUOTE:
                if at == until or at == start + 1:
                    return self._text(start)
                if found.lastindex and self._open:
                    self._keys[-1] = start
            elif self._open:
                self._open.pop()
                self._keys.pop()
            if not self._open:
                return len(self._document)
        self._cut(before, until)
        return until

    def _cut(self, at: int, until: int) -> None:
        """End pieces before commas outside of texts, where they are long enough."""
        while self._open:
            comma = self._masked.find(b",", max(at, self._start + _PIECE_BYTES), until)
            if comma < 0:
                return
            if self._document[self._start : comma].rstrip()[-1:] in {b"[", b"{"}:
                # Without a value before it, the comma is a mistake, which a cut would hide.
                self._take(comma + 1, b"")
            self._take(comma, self._closed())

    def _text(self, start: int) -> int:
        """Scan a text or key, whose end may be in another window; return where to go on."""
        end = self._masked.find(b'"', start + 1) + 1
        if not end:
            self._take(start, b'""' + self._closed())
            raise msgspec.DecodeError("Input data was truncated")
        is_long = end - start > _SLICE_BYTES
        if not self._open and not is_long:
            return len(self._document)
        if self._open and self._open[-1] == _OBJECT and _COLON.match(self._masked, end):
            if is_long:
                message = f"JSON has a key of more than {_SLICE_BYTES} bytes (byte {start})"
                raise msgspec.DecodeError(message)
            self._keys[-1] = start
        elif is_long:
            self._take(start, b'""' + self._closed())
            self._put(self._sliced(start + 1, end - 1))
            self._start = end
        return end if self._open else len(self._document)

    def _closed(self) -> bytes:
        """Return what closes all that is open."""
        return b"".join([_ENDS[bracket] for bracket in reversed(self._open)])

    def _take(self, end: int, after: bytes) -> None:
        """Decode the piece up to `end`, followed by `after`, and begin the next one."""
        again = b""
        if self._start:
            # A text stands for the value that the piece follows: nothing after it continues it.
            again = b"".join([_AGAIN[bracket] for bracket in self._before]) + b'""'
        piece = b"".join((again, self._document[self._start : end], after))
        value = _decode(piece, self._start - len(again))
        if not self._start:
            self._root = value
        for target in self._spine:
            if isinstance(target, list):
                last, *rest = value
                target.extend(rest)
            else:
                last = value.pop(_LAST)
                target.update(value)
            value = last
        self._start, self._before = end, bytes(self._open)
        self._spine.clear()
        value = self._root
        for depth in range(len(self._open)):
            self._spine.append(value)
            value = value[self._place(depth)] if depth + 1 < len(self._open) else None

    def _place(self, depth: int) -> Any:
        """Return the index or key of the last value in an open list or object."""
        if self._open[depth] == _LIST:
            return -1
        start, name = self._keys[depth], self._names.get(depth)
        if name is None or name[0] != start:
            end = self._masked.index(b'"', start + 1) + 1
            name = self._names[depth] = start, msgspec.json.decode(self._document[start:end])
        return name[1]

    def _put(self, text: str) -> None:
        """Replace the empty text that stands for a long one."""
        if self._spine:
            self._spine[-1][self._place(len(self._spine) - 1)] = text
        else:
            self._root = text

    def _sliced(self, start: int, end: int) -> str:
        """Return the text between two quotes."""
        parts = []
        while start < end:
            until = self._whole(start + _SLICE_BYTES) if start + _SLICE_BYTES < end else end
            parts.append(_decode(b'"%b"' % self._document[start:until], start - 1))
            start = until
        return "".join(parts)

    def _whole(self, at: int) -> int:
        """Return the last position up to `at` that is in no escape, surrogate pair or character."""
        if self._masked[at] == _PAIR_END:
            at -= 1
        escape = self._masked.rfind(b"\\", at - _ESCAPE_BYTES + 1, at)
        if escape >= 0:
            size = _ESCAPE_BYTES if self._masked[escape + 1 : escape + 2] == b"u" else 2
            at = escape if escape + size > at else at
        if _HIGH_SURROGATE.match(self._masked, at - _ESCAPE_BYTES, at):
            at -= _ESCAPE_BYTES
        start = at
        while 0x80 <= self._document[at] < 0xC0 and start - at < 3:
            at -= 1
        return at


def _masked(document: bytes) -> bytes:
    """Return a document of the same length, with `_PAIR` for each escaped quote or backslash."""
    if b"\\" not in document:
        return document
    parts = []
    start = 0
    while start < len(document):
        # An escape is not cut: a slice ends before the backslashes at its end, if they are few.
        end = start + _SLICE_BYTES
        part = document[start:end].replace(b"\\\\", _PAIR)
        if part.endswith(b"\\") and end < len(document):
            part = part[:-1]
        parts.append(part.replace(b'\\"', _PAIR))
        start += len(part)
    return b"".join(parts)


def _decode(piece: bytes, offset: int) -> Any:
    """Decode a piece; in the message of an error `offset` is added to its position."""
    if _has_slow_numbers(piece):
        # msgspec says what is wrong, if anything is.
        with suppress(ValueError, RecursionError):
            return _decoder.decode(piece.decode())
    try:
        return msgspec.json.decode(piece)
    except msgspec.ValidationError as error:
        # Its path is that in the piece.
        raise msgspec.ValidationError(str(error).partition(" - at ")[0]) from None
    except msgspec.DecodeError as error:
        message = _POSITION.sub(lambda found: f"(byte {int(found[1]) + offset})", str(error))
        raise msgspec.DecodeError(message) from None


def _has_slow_numbers(piece: bytes) -> bool:
    """Return whether the standard library should decode a piece, as it is faster.

    It takes 0.3 µs for a number that takes msgspec 8 µs. But it would accept a piece with lone
    surrogates, so that is left to msgspec.
    """
    if len(piece) > _SLICE_BYTES or piece.translate(_ALIKE).count(_EXPONENT) <= _FEW_EXPONENTS:
        return False
    # What stands for a backslash keeps apart what is on both sides of it.
    return _SURROGATE.search(_SURROGATES.sub(b"", piece.replace(b"\\\\", _PAIR))) is None


def _finite(text: str) -> float:
    value = float(text)
    if value in {float("inf"), float("-inf")}:
        raise ValueError(text)
    return value


def _no_constant(text: str) -> NoReturn:
    raise ValueError(text)


_decoder = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)
