"""The built-in vocabulary of the dry-run engine: the 256 bytes and a few markers.

It needs no model on disk, can spell any text, and lets the engine answer readably although it
sees only token ids. Frontends build the tokenizer from it (`vgate.frontend.tokenizer`).
"""

BYTE_TOKENS = 256

END = 256
SYSTEM = 257
USER = 258
ASSISTANT = 259

MARKERS = {
    "<|end|>": END,
    "<|system|>": SYSTEM,
    "<|user|>": USER,
    "<|assistant|>": ASSISTANT,
}

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "<|{{ message.role if message.role in ('system', 'assistant') else 'user' }}|>"
    "{{ message.content }}<|end|>"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|assistant|>{%- endif -%}"
)
