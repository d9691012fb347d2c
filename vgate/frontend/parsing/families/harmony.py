"""gpt-oss's format, "harmony": an answer is a few messages, each with a header and a channel.

Its special tokens reach the parser as `MARKS`, characters that no text has, and never as what they
spell. So a model that writes "<|end|>" in letters, as when it is asked about its own format, ends
nothing.
"""

import re
from typing import Any

from vgate.frontend.parsing.reader import Markers, Sink, Steps
from vgate.frontend.parsing.tool_parser import ToolParser

# Halves of UTF-16 pairs, which no decoded text has.
_START, _CHANNEL, _CONSTRAIN, _MESSAGE = "\ud800", "\ud801", "\ud802", "\ud803"
_END, _RETURN, _CALL = "\ud804", "\ud805", "\ud806"
# What stands for the format's special tokens in the text that a parser reads.
MARKS = {
    "<|start|>": _START,
    "<|channel|>": _CHANNEL,
    "<|constrain|>": _CONSTRAIN,
    "<|message|>": _MESSAGE,
    "<|end|>": _END,
    "<|return|>": _RETURN,
    "<|call|>": _CALL,
}
# The tokens that end an answer, and not only a message.
ENDS_OF_ANSWER = ("<|return|>", "<|call|>")
_ALL = Markers(*MARKS.values())
_ANY_MARK = re.compile("[\ud800-\ud806]")

_WORD = re.compile(r"\w")
_ROLE = re.compile(r"[\w.:/-]")
_MAX_WORD_CHARS = 256
# A header has a channel and a type at most; models repeat one now and then.
_MAX_HEADER_PARTS = 8
# The words of a header, of which one that was cut has a part.
_HEADER_WORDS = ("assistant", "analysis", "commentary", "final", "json", "code", "to=")
_FUNCTIONS = "functions."
# Recipients that are no functions: the tools that gpt-oss was trained with, and its readers.
_OTHER_RECIPIENTS = frozenset({"python", "browser", "container", "assistant", "user"})


class HarmonyParser(ToolParser):
    """Reads ``<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final...``.

    A message on the channel `analysis` is reasoning. One to ``functions.NAME`` is a call of NAME
    with its text as arguments, on whichever channel. All others are content, on unknown channels
    and without a header as well. Two messages of a kind are joined by a line break.

    A call begins with the first character of its arguments, or with its end. What can be the
    beginning of a header at the end of the text is dropped; any other text without a
    ``<|message|>`` is content.

    Args:
        tools: OpenAI's `function` objects. Without any, calls are content.
        first_call_only: Leave out all calls but the first.
        opening: What the prompt has of the answer's first message, without its role and its text;
            None if the prompt has begun no message.
        reasons: Whether reasoning is split off; otherwise it is content.

    Attributes:
        in_reasoning: Whether the next text is reasoning, as far as is certain.
        in_content: Whether the next text is content, as far as is certain.
    """

    needs_special_tokens = True
    template_signs = (r"<\|start\|>", r"<\|channel\|>", r"<\|message\|>")

    def __init__(
        self,
        tools: list[dict[str, Any]],
        *,
        first_call_only: bool = False,
        opening: str | None = "",
        reasons: bool = True,
    ) -> None:
        super().__init__(tools, first_call_only=first_call_only)
        self._opened = opening is not None
        self._reasons = reasons
        self._said = {"content": False, "reasoning": False}
        self.in_reasoning = self.in_content = False
        self._reader.push(opening or "")

    def _run(self) -> Steps[None]:
        marker = (yield from self._read_message("")) if self._opened else _END
        while marker:
            if marker in (_START, _CHANNEL):
                marker = yield from self._read_message(marker)
            else:
                marker = yield from self._read_between()

    def _read_message(self, marker: str) -> Steps[str]:
        """Read a message after its first marker, if it has one; return the marker after it."""
        reader = self._reader
        reader.record()
        if marker == _START and not (yield from reader.match("assistant")):
            yield from reader.word(_ROLE, _MAX_WORD_CHARS)
        header = yield from self._read_header(marker)
        if header is not None:
            reader.accept()
            return (yield from self._read_body(*header))
        begun = reader.rejected()
        following = yield from reader.peek()
        if _ANY_MARK.match(following or _END) and _may_be_header(begun):
            return (yield from reader.match(*_ALL.texts))
        text = _ANY_MARK.sub("", begun).removeprefix("assistant")
        return (yield from self._read_text("content", text))

    def _read_header(self, marker: str) -> Steps[tuple[str, str] | None]:
        """Read the rest of a header; return its channel and recipient, None if it is none."""
        reader = self._reader
        channel = recipient = ""
        if marker == _CHANNEL:
            channel = yield from reader.word(_WORD, _MAX_WORD_CHARS)
        for part in range(_MAX_HEADER_PARTS):
            yield from reader.spaces()
            if (yield from reader.match("to=")):
                recipient = yield from reader.word(_ROLE, _MAX_WORD_CHARS)
                yield from reader.spaces()
            if part or marker or recipient:
                # The type of the text, which may come without its marker.
                yield from reader.word(_WORD, _MAX_WORD_CHARS)
                yield from reader.spaces()
            marker = yield from reader.match(_MESSAGE, _CHANNEL, _CONSTRAIN)
            if marker == _MESSAGE:
                return channel, recipient
            if not marker:
                return None
            if marker == _CHANNEL:
                channel = yield from reader.word(_WORD, _MAX_WORD_CHARS)
        return None

    def _read_body(self, channel: str, recipient: str) -> Steps[str]:
        """Read a message's text; return the marker that ends it."""
        name = self._function(recipient)
        if name is not None:
            return (yield from self._read_arguments(name))
        reasons = self._reasons and channel == "analysis"
        return (yield from self._read_text("reasoning" if reasons else "content"))

    def _function(self, recipient: str) -> str | None:
        """Return the name of the function that a message is for; None if it is for none."""
        if not self._tools:
            return None
        if recipient.startswith(_FUNCTIONS):
            return recipient.removeprefix(_FUNCTIONS) or None
        known = recipient in self._tools
        other = recipient.partition(".")[0] in _OTHER_RECIPIENTS
        return recipient if recipient and (known or not other) else None

    def _read_arguments(self, name: str) -> Steps[str]:
        reader = self._reader
        first = yield from reader.peek()
        if not first:
            return ""
        self._begin_call(name)
        if _ANY_MARK.match(first):
            self._emit_arguments("{}")
        return (yield from self._until_end(self._emit_arguments))

    def _read_text(self, kind: str, begun: str = "") -> Steps[str]:
        """Pass content or reasoning on, from what was read of it; return the marker after it."""
        emit = self._emit_reasoning if kind == "reasoning" else self._emit_content
        first = self._said[kind]

        def say(text: str) -> None:
            nonlocal first
            if text:
                emit(f"\n{text}" if first else text)
                first, self._said[kind] = False, True

        self.in_reasoning, self.in_content = kind == "reasoning", kind == "content"
        say(begun)
        marker = yield from self._until_end(say)
        self.in_reasoning = self.in_content = False
        return marker

    def _read_between(self) -> Steps[str]:
        """Read what follows a message, most often the next one's marker; return that marker."""
        reader = self._reader
        reader.record()
        yield from reader.spaces()
        space, following = reader.rejected(), (yield from reader.peek())
        if not following or _ANY_MARK.match(following):
            return (yield from reader.match(*_ALL.texts))
        return (yield from self._read_text("content", space))

    def _until_end(self, sink: Sink) -> Steps[str]:
        """Pass a message's text to `sink`; return the marker that ends it, empty at the end."""
        while True:
            marker = yield from self._reader.until(_ALL, sink)
            if marker not in (_MESSAGE, _CONSTRAIN):
                return marker


def marked(text: str) -> str:
    """Return a text with `MARKS` in place of the format's special tokens."""
    for token, mark in MARKS.items():
        text = text.replace(token, mark)
    return text


def opening_of(rendered_prompt: str) -> str | None:
    """Return what a prompt has of the answer's first message, as `HarmonyParser` takes it."""
    _, start, message = marked(rendered_prompt).rpartition(_START)
    header, begun, text = message.partition(_MESSAGE)
    if not start or _ANY_MARK.search(text):
        return None
    return re.sub(r"\A[\w.]+", "", header) + begun


def _may_be_header(text: str) -> bool:
    """Whether the beginning of a message has nothing but words of a header, the last one cut."""
    words = re.split("[\\s\ud800-\ud806]+", text)
    return all(
        word.startswith("to=") or any(known.startswith(word) for known in _HEADER_WORDS)
        for word in words
    )
