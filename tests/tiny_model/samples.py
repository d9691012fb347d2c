"""Texts and conversations on which two tokenizers or two template engines could disagree."""

from __future__ import annotations

import random
from typing import Any

TEXTS: tuple[str, ...] = (
    "",
    " ",
    "a",
    "Hello, world!",
    "What is the capital of France?",
    "I'm sure they'll say it's what we've said; she'd know, you're right, don't.",
    "I'M SURE THEY'LL SAY IT'S WHAT WE'VE SAID",
    "quotes \u2019s and 's and 'S and 'x and ''",
    "  two leading spaces",
    "two trailing spaces  ",
    "runs   of    many     spaces",
    "\ttabs\t\tand \t mixtures \t",
    "\n",
    "\n\n\n",
    "line\nline\n\nline\n\n\nline",
    "carriage\r\nreturns\r\n\r\nand \r alone",
    "space before newline \n and after\n  indented",
    " \n \n \n",
    "no-break\u00a0space, em\u2003space, ideographic\u3000space, zero\u200bwidth",
    "line\u2028separator paragraph\u2029separator next\u0085line",
    "def f(x: int) -> str:\n    if x:\n        return f'{x!r:>10}'\n    return \"\"\n",
    "for (int i = 0; i < n; ++i) { a[i] += b[i] * 0x1F; } // done",
    '{"key": [1, 2.5, -3e10, null, true], "nested": {"a": "b\\n"}}',
    "<html><!-- c --><a href='x?y=1&z=2'>&amp;</a></html>",
    "SELECT * FROM t WHERE a <> 'b' AND c LIKE '%d_';",
    "https://example.com/a/b?c=d&e=f#g user@example.com",
    "C:\\path\\to\\file.txt /usr/lib/python3 ~/.config",
    "0 1 12 123 1234567890 3.14159 1,000,000 1e-5",
    "١٢٣ ४५६ Ⅷ ½ ² ㊿ 𝟘𝟙",
    "!@#$%^&*()_+-=[]{}|;':\",./<>?`~",
    "... --- *** === ___ ### ???!!!",
    "\u2014 \u2013 \u2026 \u201cquoted\u201d \u00absaid\u00bb",
    "Grüße, schöne Straße, Übermaß",
    "Où est le café? Ça va très bien, naïve façade",
    "El niño comió una manzana; ¿qué pasó? ¡Nada!",
    "cafe\u0301 decomposed and caf\u00e9 composed",
    "A\u030a \u212b \u00c5 and \u2126 \u03a9",
    "a\u0301\u0302\u0303\u0304 stacked marks \u0301alone",
    "ﬁ ligature, ｆｕｌｌ ｗｉｄｔｈ, ①②③",
    "Привет, мир! Съешь ещё этих мягких французских булок",
    "Γειά σου Κόσμε, ὕδωρ",
    "שלום עולם, עִבְרִית",
    "مرحبا بالعالم، كيف حالك؟",
    "नमस्ते दुनिया क्षत्रिय",
    "สวัสดีชาวโลก ไม่เป็นไร",
    "你好,世界!今天天气很好。",
    "中文和 English 混合 text 在一起123",
    "こんにちは、世界。カタカナ ﾊﾝｶｸ が か\u3099",
    "안녕하세요 세계 \u1112\u1161\u11ab\u1100\u1173\u11af",
    "𠀀𠀁 rare ideographs 𪚥",
    "😀😂🎉👍 emoji",
    "👩‍💻 👨‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇫🇷🇯🇵 1️⃣",
    "❤️ and ❤ and ☺︎",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋ ∑∞ √2 ≠ π",
    "𝓜𝓪𝓽𝓱 𝔞𝔩𝔭𝔥𝔞 𝕓𝕖𝕥𝕒",
    "Z\u0351\u036ba\u0363\u0368l\u034e\u033cg\u0321\u034fo\u0300\u0316",
    "\x00\x01\x02\x1b[31mred\x1b[0m\x7f",
    "\ufeffbyte order mark",
    "\ue000 private \uf8ff use \U0010ffff last",
    "\u0378 unassigned \ufffd replacement \uffff",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "<|endoftext|>",
    "a<|im_end|>b <|im_end|> c<|endoftext|><|endoftext|>",
    "almost <|im_start <|im_end| |> <|IM_END|> <|im_sep|> < |im_end|>",
    '<tool_call>\n{"name": "f"}\n</tool_call>',
    "e<|im_end|>\u0301 mark after a special token",
    "x" * 300,
    "ab " * 200,
    " " * 100,
    "\U0001f600" * 40,
)

WEATHER_TOOL: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Today's weather in <city> & around, in °C",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}

# Each is the set of keyword arguments that a chat template is rendered with.
CONVERSATIONS: tuple[dict[str, Any], ...] = (
    {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": True},
    {"messages": [{"role": "user", "content": "Hi"}], "add_generation_prompt": False},
    {
        "messages": [
            {"role": "system", "content": "Be brief.\n"},
            {"role": "user", "content": "  What <b>is</b> 'this' & \"that\"?\n\n"},
            {"role": "assistant", "content": "你好 😀"},
            {"role": "user", "content": "Again {{ braces }} {% raw %}"},
        ],
        "add_generation_prompt": True,
    },
    {
        "messages": [{"role": "user", "content": "Weather in Paris?"}],
        "tools": [WEATHER_TOOL, WEATHER_TOOL],
        "add_generation_prompt": True,
    },
    {
        "messages": [
            {"role": "user", "content": "Weather in Paris and Zürich?"},
            {
                "role": "assistant",
                "content": None,
                "tool_calls": [
                    {
                        "id": "call_1",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": {"city": "Paris"}},
                    },
                    {
                        "id": "call_2",
                        "type": "function",
                        "function": {"name": "get_weather", "arguments": '{"city": "Zürich"}'},
                    },
                ],
            },
            {"role": "tool", "tool_call_id": "call_1", "content": "21"},
            {"role": "tool", "tool_call_id": "call_2", "content": "19"},
            {"role": "assistant", "content": "21 and 19."},
        ],
        "tools": [WEATHER_TOOL],
        "add_generation_prompt": False,
    },
)


def mixed_texts(count: int) -> list[str]:
    """Return random concatenations of pieces of `TEXTS`: splits at places nobody thought of."""
    source = random.Random(7)
    pieces = [
        text[start : start + 5] for text in TEXTS for start in range(0, min(len(text), 60), 3)
    ]
    return ["".join(source.choices(pieces, k=12)) for _ in range(count)]
