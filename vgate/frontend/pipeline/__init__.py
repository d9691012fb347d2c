"""From a request to its answer: render, tokenise, look up, submit, wait, store.

APIs translate requests into a `Generation` for the `Pipeline` port; the app makes the pipeline.
"""

from vgate.frontend.pipeline.constraints import (
    check_quantifiers,
    check_schema_size,
    check_text_size,
    schema_constraint,
)
from vgate.frontend.pipeline.generation import (
    NO_TOOLS,
    TEMPLATE_FIELDS,
    Constraint,
    Conversation,
    Generation,
    MadeCall,
    Message,
    Prompts,
    Role,
    ToolMode,
    ToolUse,
    Truncation,
)
from vgate.frontend.pipeline.port import (
    Embedded,
    EmbedRequest,
    GenerateRequest,
    Job,
    PipelineServices,
    RequestInfo,
    Tokens,
    TokenTexts,
    Workers,
)

__all__ = [
    "NO_TOOLS",
    "TEMPLATE_FIELDS",
    "Constraint",
    "Conversation",
    "EmbedRequest",
    "Embedded",
    "GenerateRequest",
    "Generation",
    "Job",
    "MadeCall",
    "Message",
    "PipelineServices",
    "Prompts",
    "RequestInfo",
    "Role",
    "TokenTexts",
    "Tokens",
    "ToolMode",
    "ToolUse",
    "Truncation",
    "Workers",
    "check_quantifiers",
    "check_schema_size",
    "check_text_size",
    "schema_constraint",
]
