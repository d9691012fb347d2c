"""Runs vLLM's own parsers on complete texts: JSON cases on stdin, JSON results on stdout.

The argument is the model's directory. Mistral's parser needs a package that the CPU environment
lacks.
"""

import json
import sys

from transformers import AutoTokenizer
from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.parser.harmony_utils import get_encoding
from vllm.parser.harmony import HarmonyParser
from vllm.parser.qwen3 import Qwen3Parser
from vllm.reasoning.deepseek_r1_reasoning_parser import DeepSeekR1ReasoningParser
from vllm.reasoning.gptoss_reasoning_parser import GptOssReasoningParser
from vllm.tool_parsers import ToolParserManager
from vllm.tool_parsers.gptoss_tool_parser import GptOssToolParser

HarmonyParser.reasoning_parser_cls = GptOssReasoningParser
HarmonyParser.tool_parser_cls = GptOssToolParser

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
    if parser == "harmony":
        made = HarmonyParser(tokenizer, request.tools)
        ids = get_encoding().encode(text, allowed_special="all")
        reasoning, content, calls = made.parse(text, request, True, ids)
        return [content or "", reasoning or "", [[c.name, c.arguments] for c in calls or ()]]
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
