"""The few fields of an answer's JSON that are needed, and nothing else of it."""

import msgspec

_NOTHING = (b"", b"null", b"[]")


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
