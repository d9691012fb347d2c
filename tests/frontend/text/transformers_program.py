"""Writes what transformers reads in directories of tokenizers:

python -m tests.frontend.text.transformers_program REPORT TEXTS DIRECTORY...
"""

import json
import sys
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast


def read(directory: str, texts: list[str]) -> dict[str, Any]:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(directory)
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    templates = tokenizer.chat_template
    return {
        "named": tokenizer.special_tokens_map,
        "eos_id": tokenizer.eos_token_id,
        "ids": ids,
        "decoded": [tokenizer.decode(one, skip_special_tokens=True) for one in ids],
        "templates": templates if isinstance(templates, dict) else {"default": templates},
    }


def main() -> None:
    report, texts, *directories = sys.argv[1:]
    found = [read(directory, json.loads(texts)) for directory in directories]
    Path(report).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
