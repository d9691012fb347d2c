"""Models that the endpoints' suites share."""

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from vgate.config.model import Model

# The context of the model that embeds.
EMBED_LIMIT = 16


@pytest.fixture(scope="session")
def framed_dir(tmp_path_factory):
    """A model that wants special tokens around a text, and has no chat template."""
    directory = tmp_path_factory.mktemp("framed")
    words = {word: n for n, word in enumerate(["[CLS]", "[SEP]", "[UNK]", *"abcdefgh"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 0), ("[SEP]", 1)],
    )
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "config.json").write_text("{}")
    return directory


@pytest.fixture
def embed(serve, framed_dir):
    """Run a scenario on a gateway with an embedding model of few words."""

    def run(scenario, **sections):
        model = Model(
            model_id=str(framed_dir), served_model_name="m", task="embed", max_model_len=EMBED_LIMIT
        )
        serve(scenario, **{"model": model, **sections})

    return run


@pytest.fixture
def classify(serve, framed_dir, tmp_path):
    """Run a scenario on a gateway with a model that tells classes apart; one class ranks."""

    def run(scenario, labels=("LABEL_0",), **settings):
        names = {str(number): label for number, label in enumerate(labels)}
        (tmp_path / "config.json").write_text(json.dumps({"id2label": names}))
        tokenizer = (framed_dir / "tokenizer.json").read_bytes()
        (tmp_path / "tokenizer.json").write_bytes(tokenizer)
        settings = {"served_model_name": "m", "max_model_len": EMBED_LIMIT, **settings}
        serve(scenario, model=Model(model_id=str(tmp_path), task="classify", **settings))

    return run
