"""A model's text side: tokenizer, chat template, detokenizer and stop strings.

`load_text_model` makes a `TextModel` of a model's files; a `Detokenizer` reads each sequence.
"""

from vgate.frontend.text.decode import Detokenizer, TokenTexts
from vgate.frontend.text.model import (
    TextModel,
    TextModelError,
    load_text_model,
    return_memory,
    template_problem,
)
from vgate.frontend.text.pairs import PairTemplate, kept_of_pair
from vgate.frontend.text.stop_strings import StopStrings
from vgate.frontend.text.template import ChatTemplate
from vgate.frontend.text.template_errors import TemplateSyntaxError
from vgate.frontend.text.tokenizer import TokenLimit, TooManyTokensError, TooMuchAtOnceError

__all__ = [
    "ChatTemplate",
    "Detokenizer",
    "PairTemplate",
    "StopStrings",
    "TemplateSyntaxError",
    "TextModel",
    "TextModelError",
    "TokenLimit",
    "TokenTexts",
    "TooManyTokensError",
    "TooMuchAtOnceError",
    "kept_of_pair",
    "load_text_model",
    "return_memory",
    "template_problem",
]
