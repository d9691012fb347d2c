"""The text that the tokenizer is trained on: the same in every Python version."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Short on purpose, but with a little of everything that requests hold: chat, code, JSON, many
# scripts. Repeated, it outweighs the character names, so that its words become single tokens.
_SAMPLE = '''
Hello! How are you today? I'm fine, thank you; it's a good day, isn't it? We'll see what they've
done, and what you'd like to do next. Tell me a short story about the old man who lived by the sea.
Once upon a time there was a small town between the mountains and the river, where people worked
hard, slept well and told each other long stories in the evening. What is the capital of France?
The capital of France is Paris. Please write a function that returns the sum of a list of numbers,
explain how it works step by step, and give three examples. First, let us think about the question
again: which answer is right, and why would anyone choose another? Because nothing else was known.
Explain the difference between a process and a thread in simple words. Translate this sentence into
German, then count from one to ten: one, two, three, four, five, six, seven, eight, nine, ten.
You are a helpful assistant. Answer the user in a friendly way; do not make things up. If you don't
know something, say so. The weather in London is cold, with some rain in the morning and light wind
from the north after that. Could you also summarize the following text for me? It should be short.
System, user, assistant, tool, name, arguments, content, role, message, model, token, prompt, text.

def add(first: int, second: int) -> int:
    """Return the sum of both numbers."""
    if not isinstance(first, int) or second is None:
        raise TypeError("expected two numbers")
    return first + second

class Queue:
    def __init__(self, items: list[str] | None = None) -> None:
        self.items = [] if items is None else list(items)

    async def get(self) -> str:
        while not self.items:
            await asyncio.sleep(0.1)
        return self.items.pop(0)

for index, value in enumerate(range(10)):
    try:
        print(f"{index}: {value * 2}", end="\\n\\n")
    except (KeyError, ValueError) as error:
        with open("file.txt", "w", encoding="utf-8") as output:
            output.write(str(error))

import json, os, sys
from pathlib import Path
int main(void) { printf("hello, world\\n"); return 0; }
SELECT id, name FROM users WHERE age > 18 ORDER BY name LIMIT 10;
function square(x) { const y = x * x; return y; } // comment
{"role": "user", "content": "Hi", "temperature": 0.7, "stream": true, "stop": null, "n": [1, 2, 3]}
<tool_call>
{"name": "get_weather", "arguments": {"city": "Paris", "unit": "celsius"}}
</tool_call>
<html><body class="main"><a href="https://example.com/index.html?id=1&page=2">link</a></body></html>
# Title
- item **bold** and *italic* text with `code`
| a | b |
|---|---|
Grüße aus Österreich, schöne Straße. Où est le café? Ça va très bien. El niño comió una manzana.
Привет, мир! Как дела? Спасибо, хорошо. Γειά σου Κόσμε. שלום עולם. مرحبا بالعالم. नमस्ते दुनिया
你好,世界!今天天气很好。我是中国人。こんにちは、世界。ありがとうございます。안녕하세요 세계
😀 😂 🎉 👍 ❤️ 🚀 👩‍💻 🇫🇷 → ≤ ≠ ∑ ∞ € £ ° © … “quoted” ‘text’ – —
'''
_REPEATS = 20
# Up to the CJK punctuation; what follows has mostly names made of a number.
_NAMED_CHARACTERS = range(0x21, 0x3100)


def training_texts() -> Iterator[str]:
    """Yield the sample many times, then one line for each named character.

    The names come from Unicode 3.2, which Python carries frozen beside its current database. They
    give some two thousand words, and the characters give merges that end inside a character.
    """
    for _ in range(_REPEATS):
        yield _SAMPLE
    database = unicodedata.ucd_3_2_0
    for code in _NAMED_CHARACTERS:
        character = chr(code)
        name = database.name(character, "")
        if name:
            yield f"{character} {name.lower()}\n"
