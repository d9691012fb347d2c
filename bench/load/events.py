"""Server-sent events, and the few fields of their JSON that the load generator needs."""

import re
from collections.abc import Sequence

import msgspec

_NOTHING = (b"", b"null", b"[]")
_PLAIN_CHUNK = re.compile(
    rb'([0-9A-Fa-f]+)\r\ndata: \{[^\n]*"content":"[^"][^\n]*"finish_reason":null[^\n]*\}\n\n\r\n'
).fullmatch


class Usage(msgspec.Struct, gc=False):
    """Token counts, as the server gives them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Message(msgspec.Struct, gc=False):
    """A chat message or a part of one. Reasoning has two names among servers."""

    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: msgspec.Raw = msgspec.Raw()


class Choice(msgspec.Struct, gc=False):
    """A choice of either endpoint, whole or streamed."""

    index: int = 0
    finish_reason: str | None = None
    delta: Message | None = None
    message: Message | None = None
    text: str | None = None

    @property
    def other_content(self) -> str | None:
        """Output of the model that is neither `text` nor the delta's `content`."""
        part = self.delta or self.message
        if part is None:
            return None
        text = part.content or part.reasoning_content or part.reasoning or part.refusal
        calls = bytes(part.tool_calls)
        return text if text or calls in _NOTHING else calls.decode()


class Chunk(msgspec.Struct, gc=False):
    """A whole answer, or one event of a streamed one."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: msgspec.Raw = msgspec.Raw()

    @property
    def failed(self) -> bool:
        """Whether it carries an error in place of an answer."""
        return bytes(self.error) not in _NOTHING


read_chunk = msgspec.json.Decoder(Chunk).decode


class _Error(msgspec.Struct):
    message: str | None = None


class _ErrorBody(msgspec.Struct):
    error: _Error | str | None = None
    message: str | None = None
    detail: str | None = None


def error_message(body: bytes) -> str:
    """Return the message in an error body, or the start of the body if it has none."""
    try:
        found = msgspec.json.decode(body, type=_ErrorBody)
    except msgspec.DecodeError:
        found = _ErrorBody()
    inner = found.error.message if isinstance(found.error, _Error) else found.error
    message = inner or found.message or found.detail or body.decode("utf-8", "replace")
    return " ".join(message.split())[:200]


def is_plain_chunk(data: bytes) -> bool:
    """Whether these bytes are one whole chunk of HTTP with one event: some text, and more to come.

    Nearly every read of a stream is; telling that costs a third of parsing it.
    """
    match = _PLAIN_CHUNK(data)
    if match is None:
        return False
    size = match[1]
    return int(size, 16) == len(data) - len(size) - 4


class EventSplitter:
    """Cuts a byte stream into the data of its events (WHATWG HTML, section 9.2).

    Lines may end in LF or CRLF; a bare CR, which no server of this kind sends, is not a line end.
    """

    __slots__ = ("_data", "_pending", "named_error")

    def __init__(self) -> None:
        self._pending = b""
        self._data: list[bytes] = []
        self.named_error = False  # an `event: error` line was seen

    def feed(self, data: bytes) -> Sequence[bytes]:
        """Return the data of the events that end within these bytes, in order."""
        # Nearly every piece is one whole event of one line; it is recognised without a split.
        if (
            data.find(b"\n") == len(data) - 2
            and data.startswith(b"data: ")
            and data.endswith(b"\n\n")
            and not self._pending
            and not self._data
        ):
            return (data[6:-2],)
        lines = (self._pending + data).split(b"\n")
        self._pending = lines.pop()
        events: list[bytes] = []
        for line in lines:
            self._take(line[:-1] if line.endswith(b"\r") else line, events)
        return events

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if not line:
            if self._data:
                events.append(b"\n".join(self._data))
                self._data.clear()
        elif line.startswith(b"data:"):
            self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
        elif line.startswith(b"event:") and line[6:].strip() == b"error":
            self.named_error = True
