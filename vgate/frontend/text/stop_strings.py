"""Finds stop strings in text that arrives in pieces. Pure."""


class StopStrings:
    """Looks for strings that end an answer, and holds back text that may be the start of one.

    With `include` the string that ends it belongs to the answer.

    Attributes:
        found: The string that ended the answer; None before.
    """

    __slots__ = ("_held", "_include", "_stops", "found")

    def __init__(self, stops: tuple[str, ...], *, include: bool = False) -> None:
        self._stops = stops
        self._include = include
        self._held = ""
        self.found: str | None = None

    def feed(self, piece: str, *, armed: bool = True) -> str:
        """Take the text of a token, and none after a match; return what is certain now.

        A match that completes in this piece counts only if it is `armed`.
        """
        if not piece:
            return ""
        text = self._held + piece
        match = self._first(text) if armed else None
        if match is not None:
            begin, self.found = match
            self._held = ""
            return text[: begin + len(self.found)] if self._include else text[:begin]
        certain = len(text) - self._held_chars(text)
        self._held = text[certain:]
        return text[:certain]

    def finish(self) -> str:
        """Return the text that was held back. The text has ended."""
        held, self._held = self._held, ""
        return held

    def _first(self, text: str) -> tuple[int, str] | None:
        """Return the start and the stop string that completes first; ties go to list order."""
        best: tuple[int, str] | None = None
        for stop in self._stops:
            begin = text.find(stop)
            if begin >= 0 and (best is None or begin + len(stop) < best[0] + len(best[1])):
                best = (begin, stop)
        return best

    def _held_chars(self, text: str) -> int:
        """Return the length of the longest end of `text` that a stop string starts with."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest
