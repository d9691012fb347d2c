"""A Messages request as the chat request that says the same, and errors back in its own terms."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from vgate.errors import InvalidRequestError, InvalidValueError
from vgate.frontend.apis.anthropic.messages.request import (
    ChooseAny,
    ChooseNone,
    ChooseTool,
    CountTokensRequest,
    MessagesRequest,
    ToolChoice,
)
from vgate.frontend.apis.anthropic.messages.thinking import shows_thinking
from vgate.frontend.apis.anthropic.messages.turns import ChatMessages
from vgate.frontend.apis.openai.chat.request import ChatRequest, check_chat
from vgate.validation import explain

# Fields of a chat request, and what they are in a Messages request.
_PLACES = {
    "stop": "stop_sequences",
    "parallel_tool_calls": "tool_choice.disable_parallel_tool_use",
    "reasoning_effort": "output_config.effort",
    "response_format": "output_config.format",
    "response_format.json_schema": "output_config.format",
    "tool_choice.function": "tool_choice",
}
_QUOTED = re.compile(r"`([^`]+)`")
_STEP_END = re.compile(r"(?=[.\[])")


class Translation:
    """A chat request made of a Messages request.

    Args:
        request: A checked request.
        effort: The reasoning effort that it asks for.

    Attributes:
        fields: The chat request's fields.

    Raises:
        InvalidValueError: The conversation ends with an assistant's message that can't go on.
    """

    def __init__(self, request: CountTokensRequest, effort: str | None = None) -> None:
        chat = ChatMessages(request)
        self._places = {**_PLACES, **chat.places}
        self.fields: dict[str, Any] = {"model": request.model, "messages": chat.messages}
        self._add_tools(request)
        self._add_answer(request, effort)
        if isinstance(request, MessagesRequest):
            self._add_sampling(request)

    def chat_request(self) -> ChatRequest:
        """Return the chat request, checked.

        Raises:
            InvalidRequestError: In terms of the Messages request.
        """
        try:
            request = msgspec.convert(self.fields, ChatRequest)
            check_chat(request)
        except msgspec.ValidationError as error:
            problem = explain(error, self.fields)
            found = InvalidValueError(str(problem), param=problem.path or None)
            raise self.restated(found) from None
        except InvalidRequestError as error:
            raise self.restated(error) from None
        return request

    def restated(self, error: InvalidRequestError) -> InvalidRequestError:
        """Return an error about the chat request as one about the Messages request."""
        message = _QUOTED.sub(lambda quoted: f"`{self._place_of(quoted[1])}`", error.message)
        param = None if error.param is None else self._place_of(error.param)
        return type(error)(message, param=param, retry_after_s=error.retry_after_s)

    def _place_of(self, path: str) -> str:
        """Return what a path in the chat request stands for: its longest known beginning counts."""
        steps = _STEP_END.split(path)
        for count in range(len(steps), 0, -1):
            place = self._places.get("".join(steps[:count]))
            if place is not None:
                return place + "".join(steps[count:])
        return path

    def _add_tools(self, request: CountTokensRequest) -> None:
        for index, tool in enumerate(request.tools or ()):
            function = {
                "name": tool.name,
                "description": tool.description,
                "parameters": tool.input_schema,
                "strict": tool.strict,
            }
            self.fields.setdefault("tools", []).append({"type": "function", "function": function})
            path, where = f"tools[{index}].function", f"tools[{index}]"
            self._places |= {path: where, f"{path}.parameters": f"{where}.input_schema"}
        choice = request.tool_choice
        if choice is not None:
            self.fields["tool_choice"] = _tool_choice(choice)
            if choice.disable_parallel_tool_use:
                self.fields["parallel_tool_calls"] = False

    def _add_answer(self, request: CountTokensRequest, effort: str | None) -> None:
        """Add how the answer is to be."""
        fields = self.fields
        config = request.output_config
        if config is not None and config.format is not None:
            schema = {"name": "output", "schema": config.format.schema}
            fields["response_format"] = {"type": "json_schema", "json_schema": schema}
        if effort is not None:
            fields["reasoning_effort"] = effort
        if not shows_thinking(request):
            fields["include_reasoning"] = False
        if fields["messages"][-1]["role"] == "assistant":
            self._continue(fields["messages"][-1])

    def _continue(self, last: dict[str, Any]) -> None:
        """Have the answer go on from what the assistant has begun to say."""
        path = f"messages[{len(self.fields['messages']) - 1}]"
        if "tool_calls" in last:
            where = self._places[f"{path}.tool_calls[0]"]
            message = f"`{where}` is a tool call, so a message with its tool_result must follow"
            raise InvalidValueError(message, param=where)
        if not any(block["text"] for block in _as_blocks(last.get("content", ""))):
            where = f"{self._places[path]}.content"
            message = f"`{where}` must have text for the answer to go on from"
            raise InvalidValueError(message, param=where)
        self.fields |= {"continue_final_message": True, "add_generation_prompt": False}

    def _add_sampling(self, request: MessagesRequest) -> None:
        chosen = {
            "max_tokens": request.max_tokens,
            "stop": request.stop_sequences or None,
            "stream": request.stream,
            "temperature": request.temperature,
            "top_k": request.top_k,
            "top_p": request.top_p,
        }
        self.fields |= {name: value for name, value in chosen.items() if value is not None}


def _as_blocks(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _tool_choice(choice: ToolChoice) -> str | dict[str, Any]:
    if isinstance(choice, ChooseTool):
        return {"type": "function", "function": {"name": choice.name}}
    if isinstance(choice, ChooseAny):
        return "required"
    return "none" if isinstance(choice, ChooseNone) else "auto"
