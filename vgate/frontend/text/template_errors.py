"""Why a chat template can't be used."""


class TemplateSyntaxError(Exception):
    """The chat template can't be compiled."""


class RefusedError(Exception):
    """A template called ``raise_exception``."""
