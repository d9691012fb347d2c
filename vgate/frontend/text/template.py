"""Chat templates, rendered as ``transformers``' ``apply_chat_template`` renders them.

Same sandbox, block trimming, loop controls, filters and globals (its chat templating guide
documents them). A client's template can only render: its output and its operators are bounded.
Its time and its variables are not, so the operator has to allow such templates.
"""

import re
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from vgate.errors import InvalidValueError
from vgate.frontend.text.piece_encoder import SHIELD
from vgate.frontend.text.template_errors import RefusedError

# More than the longest contexts hold: 10 million tokens of a few characters each.
MAX_RENDERED_CHARS = 64 * 1024 * 1024
# Half of a UTF-16 pair, but for a shield: a tokenizer can't read it.
_HALF = re.compile("[\ud800-\udffe]")

# Appended to the message to be continued, to find its end in the rendered text. Its space shows
# whether the template keeps spaces at the end of a message.
_MARK = "VGATE-CONTINUES-HERE"


class ChatTemplate:
    """A compiled chat template.

    Args:
        source: Jinja source.
        special_tokens: ``bos_token`` and the like, as text; templates use them by name.
        defaults: Variables of renderings that are not given them.
        clock: Unix time, for templates that contain the date.
        of_client: Whether a client sent it, who may let it write what is no text.

    Attributes:
        variables: The names that it uses and does not always define itself.
        steps: What its users found out about changes that conversations of a shape need.

    Raises:
        TemplateSyntaxError: The source isn't valid.
    """

    def __init__(
        self,
        source: str,
        special_tokens: dict[str, str],
        *,
        defaults: Mapping[str, Any] = MappingProxyType({}),
        clock: Callable[[], float] = time.time,
        of_client: bool = False,
    ) -> None:
        self._of_client = of_client
        self.source = source
        self.special_tokens = special_tokens
        self.steps: dict[Any, Any] = {}
        # jinja2 takes 2 MiB, which nothing needs before the tokenizer is read, when memory peaks.
        from vgate.frontend.text.sandbox import compiled

        self._template, self.variables = compiled(source, clock)
        # The variables of every rendering.
        self._given: dict[str, Any] = {**self._template.globals, **special_tokens, **defaults}

    def render(
        self,
        messages: list[dict[str, Any]],
        *,
        tools: list[dict[str, Any]] | None = None,
        documents: list[dict[str, Any]] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        kwargs: dict[str, Any] | None = None,
    ) -> str:
        """Render a conversation.

        Args:
            messages: As `template_message` makes them.
            tools: As OpenAI defines them; the template gets None for an empty list.
            documents: Retrieved documents; as `tools`.
            add_generation_prompt: Whether to end with the start of an answer.
            continue_final_message: Whether to end inside the last message, to continue it.
            kwargs: Further variables; they replace defaults and special tokens of the same name.

        Raises:
            InvalidValueError: The template refuses these messages.
        """
        variables = {
            **self._given,
            **(kwargs or {}),
            "messages": messages,
            "tools": tools or None,
            "documents": documents or None,
            "add_generation_prompt": add_generation_prompt,
        }
        if not continue_final_message:
            return self._render(variables)
        *before, last = messages
        marked = {**last, "content": f"{last['content']}{_MARK} "}
        return _cut(self._render({**variables, "messages": [*before, marked]}), last["content"])

    def _render(self, variables: dict[str, Any]) -> str:
        try:
            parts, size = [], 0
            context = self._template.new_context(variables, shared=True)
            for part in self._template.root_render_func(context):
                size += len(part)
                if size > MAX_RENDERED_CHARS:
                    raise ValueError(f"it renders more than {MAX_RENDERED_CHARS} characters")
                parts.append(part)
            rendered = "".join(parts)
            if self._of_client and _HALF.search(rendered):
                raise ValueError("it writes half of a UTF-16 pair")
        except Exception as error:  # noqa: BLE001 - a template is a program and can raise anything
            failure = "refuses" if isinstance(error, RefusedError) else "can't render"
            reason = str(error).replace(SHIELD, "").encode(errors="replace").decode()
            message = f"the model's chat template {failure} these messages: {reason}"
            raise InvalidValueError(message, param="messages") from None
        return rendered


def _cut(text: str, final: str) -> str:
    """Return the rendered text up to the end of the last message's content."""
    end = text.rfind(_MARK)
    if end < 0 or final.strip() not in text:
        raise InvalidValueError(
            "`continue_final_message`: the model's chat template does not show the last message",
            param="continue_final_message",
        )
    kept = text.startswith(f"{_MARK} ", end)
    # A template that strips messages would have stripped this one without the mark too.
    return text[:end] if kept else text[:end].rstrip()
