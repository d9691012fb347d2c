"""Writes how transformers tokenises conversations and texts, and the text of answers to prompts:

python -m tests.e2e.transformers_program DIRECTORY CASES REPORT
"""

import json
import sys
from pathlib import Path

from transformers import AutoTokenizer


def main() -> None:
    directory, cases, report = sys.argv[1:]
    tokenizer = AutoTokenizer.from_pretrained(directory)

    def text_after(prompt: list[int], ids: list[int]) -> str:
        # Decoded alone, an answer would lose a space at its start.
        whole: str = tokenizer.decode(prompt + ids, skip_special_tokens=True)
        return whole.removeprefix(tokenizer.decode(prompt, skip_special_tokens=True))

    given = json.loads(Path(cases).read_bytes())
    found = {
        "conversations": [
            tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
            for messages in given["conversations"]
        ],
        "texts": [tokenizer.encode(text) for text in given["texts"]],
        "answers": [text_after(*answer) for answer in given["answers"]],
    }
    Path(report).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
