"""The files of a model that a frontend needs: tokenizer, chat template and generation defaults."""

import msgspec

TOKENIZER = "tokenizer.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
# In the directories of older models, beside the configuration or instead of it.
SPECIAL_TOKENS = "special_tokens_map.json"
ADDED_TOKENS = "added_tokens.json"
GENERATION_CONFIG = "generation_config.json"
TEMPLATE = "chat_template.jinja"
TOOL_TEMPLATE = "additional_chat_templates/tool_use.jinja"
# Of a model's processor: JSON with the template as `chat_template`.
PROCESSOR_TEMPLATE = "chat_template.json"
NAMES = (
    *(TOKENIZER, TOKENIZER_CONFIG, SPECIAL_TOKENS, ADDED_TOKENS, GENERATION_CONFIG),
    *(TEMPLATE, TOOL_TEMPLATE, PROCESSOR_TEMPLATE),
)


class FileInfo(msgspec.Struct, frozen=True, array_like=True):
    """A file that frontends read from an engine: its SHA-256 and its size in bytes."""

    name: str
    digest: bytes
    size: int


class ModelFiles(msgspec.Struct, frozen=True):
    """A model's text files by their names in its directory; `origin` is for error messages."""

    origin: str
    contents: dict[str, bytes]

    def path(self, name: str) -> str:
        """Return a file's name for an error message."""
        return f"{self.origin}/{name}"


def has_chat_template(files: ModelFiles, configured: str | None) -> bool:
    """Whether a model takes conversations. A template that is no text is for its reader to tell."""
    if configured or TEMPLATE in files.contents:
        return True
    holders = (files.contents.get(name, b"") for name in (TOKENIZER_CONFIG, PROCESSOR_TEMPLATE))
    return any(_Holder.has_template(content) for content in holders)


class _Holder(msgspec.Struct):
    """A JSON document that may have a chat template."""

    chat_template: msgspec.Raw = msgspec.Raw(b"null")

    @classmethod
    def has_template(cls, content: bytes) -> bool:
        try:
            return bytes(msgspec.json.decode(content, type=cls).chat_template) != b"null"
        except msgspec.DecodeError:
            return False
