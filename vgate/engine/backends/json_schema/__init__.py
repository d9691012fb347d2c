"""JSON schemas and regular expressions in the words of a grammar library that is literal. Pure."""

from vgate.engine.backends.json_schema.formats import FORMATS
from vgate.engine.backends.json_schema.patterns import MalformedError, UnsupportedError, whole
from vgate.engine.backends.json_schema.translation import translated

__all__ = ["FORMATS", "MalformedError", "UnsupportedError", "translated", "whole"]
