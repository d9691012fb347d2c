"""Why no estimate can be made."""


class FitError(Exception):
    """The model can't be read or isn't understood: why, and what to do."""
