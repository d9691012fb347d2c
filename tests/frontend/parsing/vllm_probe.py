"""Runs vLLM's own parsers on complete texts: JSON cases on stdin, JSON results on stdout.

The argument is the model's directory. Mistral's parser needs a package that the CPU environment
lacks.
"""

import json
import sys

from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.parser.qwen3 import Qwen3Parser
from vllm.reasoning.deepseek_r1_reasoning_parser import DeepSeekR1ReasoningParser
from vllm.tool_parsers import ToolParserManager

MARKERS = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<|python_tag|>",
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>",
    "<｜tool▁call▁end｜>",
    "<｜tool▁sep｜>",
]


def main() -> None:
    tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
    tokenizer.add_special_tokens({"additional_special_tokens": MARKERS})
    asked = json.load(sys.stdin)
    request = ChatCompletionRequest(
        model="m",
        messages=[{"role": "user", "content": "x"}],
        tools=[{"type": "function", "function": tool} for tool in asked["tools"]],
    )
    results = [answer(tokenizer, request, parser, text) for parser, text in asked["cases"]]
    print("\n" + json.dumps(results))


def answer(tokenizer, request, parser, text):
    if parser in {"qwen3", "deepseek_r1"}:
        made = (
            Qwen3Parser(tokenizer, request.tools)
            if parser == "qwen3"
            else DeepSeekR1ReasoningParser(tokenizer)
        )
        reasoning, content = made.extract_reasoning(text, request)
        return [content or "", reasoning or "", []]
    if parser == "qwen3_coder":
        made = Qwen3Parser(tokenizer, request.tools)
        found = made.extract_tool_calls_from_content(text, request)
    else:
        made = ToolParserManager.get_tool_parser(parser)(tokenizer, request.tools)
        found = made.extract_tool_calls(text, request)
    calls = [[call.function.name, call.function.arguments] for call in found.tool_calls]
    return [found.content or "", "", calls]


if __name__ == "__main__":
    main()
