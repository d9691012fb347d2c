"""The built-in vocabulary of the dry-run engine: the 256 bytes and a few markers.

It needs no model on disk, encodes any text, and lets the engine, which only sees token ids, answer
in readable text. Frontends build their tokenizer from it.
"""

import msgspec

from vgate.wire.model_files import TEMPLATE, TOKENIZER, ModelFiles

BYTE_TOKENS = 256

END, SYSTEM, USER, ASSISTANT = range(BYTE_TOKENS, BYTE_TOKENS + 4)
MARKERS = {"<|end|>": END, "<|system|>": SYSTEM, "<|user|>": USER, "<|assistant|>": ASSISTANT}

# Tools come first, because the engine repeats the last message.
CHAT_TEMPLATE = (
    "{%- if tools -%}"
    "<|system|>Tools that can be called, each as"
    ' <tool_call>{"name": ..., "arguments": ...}</tool_call>:'
    "{%- for tool in tools -%}{{ '\\n' ~ (tool | tojson) }}{%- endfor -%}<|end|>"
    "{%- endif -%}"
    "{%- for message in messages -%}"
    "<|{{ message.role if message.role in ('system', 'assistant') else 'user' }}|>"
    "{%- if message.reasoning_content -%}"
    "<think>{{ message.reasoning_content }}</think>"
    "{%- endif -%}"
    "{{ message.content }}"
    "{%- for call in message.tool_calls or [] -%}"
    '<tool_call>{"name": {{ call.function.name | tojson }},'
    ' "arguments": {{ call.function.arguments | tojson }}}</tool_call>'
    "{%- endfor -%}"
    "<|end|>"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}"
    "<|assistant|>"
    "{%- if enable_thinking is defined and not enable_thinking -%}<think></think>{%- endif -%}"
    "{%- endif -%}"
)


def model_files() -> ModelFiles:
    """Return the files that describe the vocabulary as if it were a model's."""
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(BYTE_TOKENS)}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    tokenizer = {
        "version": "1.0",
        "added_tokens": [
            {"id": number, "content": text, **flags, "special": True}
            for text, number in MARKERS.items()
        ],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [], "byte_fallback": True},
    }
    contents = {TOKENIZER: msgspec.json.encode(tokenizer), TEMPLATE: CHAT_TEMPLATE.encode()}
    return ModelFiles("(dry run)", contents)
