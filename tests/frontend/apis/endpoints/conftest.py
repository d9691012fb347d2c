"""Models that the endpoints' suites share."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors


@pytest.fixture(scope="session")
def framed_dir(tmp_path_factory):
    """A model that wants special tokens around a text, and has no chat template."""
    directory = tmp_path_factory.mktemp("framed")
    words = {word: n for n, word in enumerate(["[CLS]", "[SEP]", "[UNK]", *"abcdefgh"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 1)]
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "config.json").write_text("{}")
    return directory
