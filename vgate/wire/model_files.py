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
