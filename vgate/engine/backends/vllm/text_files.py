"""The text files that frontends get of a model: its own, completed by what transformers knows.

Frontends have no transformers. What only it knows is written into the files that they read: a
tokenizer that the directory has in another format, such as SentencePiece's, and the special tokens
and the sampling defaults that count. So they tokenise and end answers as vLLM does. Nothing is
written to the disk: vLLM has to convert the tokenizer at every start anyway, and frontends keep
what they were sent.
"""

import json
from pathlib import Path
from typing import Any

from vllm.tokenizers import cached_tokenizer_from_config

from vgate.engine.backends.base import BackendError
from vgate.engine.backends.vllm.failures import first_paragraph
from vgate.engine.served_files import read_model_files
from vgate.wire.model_files import GENERATION_CONFIG, TOKENIZER, TOKENIZER_CONFIG, ModelFiles


def text_files(model_config: Any) -> ModelFiles:
    """Return the text files of the model of vLLM's configuration.

    Raises:
        BackendError: Its tokenizer can't be read, or frontends can't run it.
    """
    directory = Path(model_config.tokenizer)
    files = read_model_files(directory)
    tokenizer = _tokenizer(model_config, directory)
    if TOKENIZER not in files.contents and tokenizer is not None:
        files.contents[TOKENIZER] = _as_json(tokenizer, directory)
    # Not those of the directory alone: transformers has defaults for each class of tokenizer.
    if special := getattr(tokenizer, "special_tokens_map", None):
        own = json.loads(files.contents.get(TOKENIZER_CONFIG, b"{}"))
        files.contents[TOKENIZER_CONFIG] = json.dumps({**own, **special}).encode()
    defaults = model_config.try_get_generation_config() | model_config.override_generation_config
    files.contents[GENERATION_CONFIG] = json.dumps(defaults, default=str).encode()
    return files


def _tokenizer(model_config: Any, directory: Path) -> Any:
    """Return the tokenizer, which vLLM uses again; None if it is to use none."""
    try:
        return cached_tokenizer_from_config(model_config)
    except Exception as error:
        raise BackendError(
            f"the tokenizer in {directory} can't be read: {first_paragraph(error)}\n"
            "Fetch its files again, or copy a tokenizer.json into the directory."
        ) from error


def _as_json(tokenizer: Any, directory: Path) -> bytes:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise BackendError(
            f"the tokenizer in {directory} ({type(tokenizer).__name__}) is Python code, which "
            "frontends can't run: copy a tokenizer.json into the directory"
        )
    text: str = backend.to_str()
    return text.encode()
