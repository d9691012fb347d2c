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
    AllRequests,
    Embedded,
    EmbedRequest,
    GenerateRequest,
    Job,
    Pipeline,
    PipelineServices,
    RequestInfo,
    TokenizerInfo,
    Tokens,
    TokenTexts,
    Traits,
    Workers,
)

__all__ = [
    "NO_TOOLS",
    "TEMPLATE_FIELDS",
    "AllRequests",
    "Constraint",
    "Conversation",
    "EmbedRequest",
    "Embedded",
    "GenerateRequest",
    "Generation",
    "Job",
    "MadeCall",
    "Message",
    "Pipeline",
    "PipelineServices",
    "Prompts",
    "RequestInfo",
    "Role",
    "TokenTexts",
    "TokenizerInfo",
    "Tokens",
    "ToolMode",
    "ToolUse",
    "Traits",
    "Truncation",
    "Workers",
    "check_quantifiers",
    "check_schema_size",
    "check_text_size",
    "schema_constraint",
]
