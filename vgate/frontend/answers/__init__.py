"""From a sequence's tokens to an answer, collected or streamed, in no API's format.

APIs implement the encoders' protocols and read the results; the pipeline makes the answers.
"""

from vgate.frontend.answers.encoder import (
    KEEP_ALIVE_COMMENT,
    ChoiceDelta,
    ResponseEncoder,
    StreamEncoder,
)
from vgate.frontend.answers.result import ChoiceResult, FinishReason, Result, TokenCounts, ToolCall

__all__ = [
    "KEEP_ALIVE_COMMENT",
    "ChoiceDelta",
    "ChoiceResult",
    "FinishReason",
    "ResponseEncoder",
    "Result",
    "StreamEncoder",
    "TokenCounts",
    "ToolCall",
]
