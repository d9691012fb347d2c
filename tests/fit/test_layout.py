"""Weights and KV cache of models by their configuration alone, with figures made by hand.

`test_vllm_figures` holds the same to the real vLLM, where that is installed.
"""

import json
import random

import msgspec
import pytest

from tests.fit.checkpoints import checkpoint
from tests.fit.families import FAMILIES, LAYOUTS
from tests.fit.published import MODELS
from vgate.fit import Checkpoint, FitError, Settings, Tensor, estimate
from vgate.fit.families import draft_count
from vgate.fit.gpu import GIB, Card, overhead, step_tokens, usual_sequences
from vgate.fit.layers import Attention, State, cached_layers
from vgate.fit.pages import lay_out
from vgate.fit.weights import loaded, model_dtype

CARD = Card(24 * GIB, 0.9)


def weights(config, **tensors):
    found = checkpoint(config)
    more = {name.replace("__", "."): tensor for name, tensor in tensors.items()}
    return loaded(
        msgspec.structs.replace(found, tensors=found.tensors | more),
        element_bytes=2,
        quantization=None,
    )


def test_all_layers_of_llama_keep_every_token():
    layers = cached_layers(MODELS["Llama-3.1-8B"], 2)
    assert layers == [Attention(8, 128, 128)] * 32
    cache = lay_out(layers, 2)
    assert cache.block_bytes == 16 * 128 * 1024
    assert cache.token_bytes == 128 * 1024
    assert cache.blocks(1) == 1
    assert cache.blocks(17) == 2
    assert lay_out(layers, 1).token_bytes == 64 * 1024


def test_layers_with_a_window_keep_its_tokens_and_the_steps():
    layers = cached_layers(MODELS["Gemma-3-1b"], 2)
    assert [layer.window for layer in layers[:7]] == [*[512] * 5, None, 512]
    cache = lay_out(layers, 2, in_flight_tokens=4096)
    # 4 layers see everything, 22 a window: groups of 4 layers, two of them for padding.
    assert sorted(group.layers for group in cache.groups) == [3, 3, 4, 4, 4, 4, 4]
    long = cache.blocks(32_768) - cache.blocks(32_768 - 16)
    assert long == 1
    window = (511 + 4096 + 15) // 16 + 1
    assert cache.blocks(32_768) == 32_768 // 16 + 6 * window


def test_latent_attention_keeps_one_vector():
    layers = cached_layers(MODELS["DeepSeek-V2-Lite"], 2)
    assert lay_out(layers, 2).token_bytes == 27 * (512 + 64) * 2


def test_states_take_blocks_of_their_own():
    layers = cached_layers(MODELS["Qwen3.6-35B-A3B"], 2)
    state = 32 * 128 * 128 * 4 + (2 * 16 * 128 + 32 * 128) * 3 * 2
    assert layers.count(State(state)) == 30
    cache = lay_out(layers, 1)
    assert cache.block_bytes == 10 * state
    assert cache.blocks(1) == 1 + 3 * 2
    assert lay_out(layers, 1, prefix_caching=False).blocks(1) == 1 + 3


def test_layers_that_share_keep_nothing():
    layers = cached_layers(LAYOUTS["gemma3n"], 2)
    assert len(layers) == 6


def test_a_chunk_is_kept():
    layers = [Attention(2, 64, 64), Attention(2, 64, 64, chunk=512)]
    cache = lay_out(layers, 2, in_flight_tokens=256)
    assert cache.blocks(4096) == 4096 // 16 + (512 + 256) // 16


def test_a_model_that_keeps_nothing_has_its_own_context():
    cache = lay_out([], 2)
    assert cache.concurrency(GIB, 4096) == float("inf")
    assert cache.longest(GIB, 4096) == 4096


@pytest.mark.parametrize("pages", [(64, 96), (96, 64)])
def test_pages_that_do_not_divide_are_padded(pages):
    few, many = (Attention(2, size, size) for size in pages)
    windowed = msgspec.structs.replace(many, window=512)
    cache = lay_out([few, windowed], 2)
    assert cache.block_bytes == 96 * 2 * 2 * 2 * 16
    assert {group.block_tokens for group in cache.groups} == {16}


def test_a_tied_head_is_held_once():
    own = FAMILIES["llama"]
    both = {**own, "tie_word_embeddings": True}
    head = Tensor("BF16", [2048, 128])
    assert weights(both, lm_head__weight=head).parameters == weights(both).parameters
    assert weights(own).parameters - weights(both).parameters == 2048 * 128 * 2


def test_only_the_last_layer_is_a_head():
    both = {**FAMILIES["llama"], "tie_word_embeddings": True}
    more = {"model__layers__0__attention__output__weight": Tensor("BF16", [128, 128])}
    assert weights(both, **more).parameters - weights(both).parameters == 128 * 128 * 2
    more = {"output__weight": Tensor("BF16", [2048, 128])}
    assert weights(both, **more).parameters == weights(both).parameters


def test_a_vocabulary_is_padded():
    small, large = ({**FAMILIES["llama"], "vocab_size": size} for size in (1985, 2048))
    assert weights(small).parameters == weights(large).parameters


def test_layers_that_only_draft_are_left_out():
    config = FAMILIES["llama"]
    draft = Tensor("BF16", [128, 128])
    more = {"model__layers__4__self_attn__q_proj__weight": draft, "mtp__fc__weight": draft}
    more |= {"model__mtp_layers__0__input_proj__weight": draft, "mtp_block__0__x__weight": draft}
    assert weights(config, **more).parameters == weights(config).parameters


def drafting(config, *names):
    draft = {name: Tensor("BF16", [128, 128]) for name in names}
    return Checkpoint("tiny", config, dict(checkpoint(config).tensors) | draft)


@pytest.mark.parametrize(
    "name", ["model.layers.4.eh_proj.weight", "mtp.fc.weight", "model.mtp_layers.0.a.weight"]
)
def test_layers_that_draft_are_counted_where_they_are_used(name):
    config = {**FAMILIES["llama"], "num_nextn_predict_layers": 1}
    shared = ("model.layers.4.embed_tokens.weight", "model.layers.4.shared_head.head.weight")
    # One is beyond what config.json names.
    files = drafting(config, name, *shared, "model.layers.5.eh_proj.weight")
    card = Card(8 * GIB, 0.9)
    without, used = (estimate(files, card, Settings(speculation=s)) for s in ("none", "mtp"))
    assert used.weights.total - without.weights.total == 128 * 128 * 2
    assert used.cache.token_bytes * 4 == without.cache.token_bytes * 5
    none = estimate(drafting(config), card, Settings(speculation="auto"))
    assert (none.weights, none.cache) == (without.weights, without.cache)


def test_a_second_form_of_a_matrix_is_counted_where_the_layer_is_loaded():
    config = {**FAMILIES["deepseek-mla"], "num_nextn_predict_layers": 1}
    files = drafting(config, "model.layers.4.self_attn.kv_b_proj.weight")
    copies = [
        loaded(files, element_bytes=2, quantization=None, drafts=drafts).copies for drafts in (0, 1)
    ]
    assert copies[1] - copies[0] == 128 * 128 * 2
    assert copies[0] == weights(FAMILIES["deepseek-mla"]).copies


def test_a_state_is_kept_for_each_drafted_token():
    for tokens in (0, 3):
        (state,) = cached_layers(
            LAYOUTS["mamba2"] | {"num_hidden_layers": 1}, 2, draft_tokens=tokens
        )
        cache = lay_out([state], 2)
        assert cache.blocks(100) == cache.blocks(5000) == 2 + state.checkpoints + tokens
    config = LAYOUTS["mamba2"]
    files, card = Checkpoint("tiny", config, {}), Card(8 * GIB, 0.9)
    sizes = [
        estimate(files, card, Settings(speculation=name, draft_tokens=tokens)).cache.sequence_bytes(
            9
        )
        for name, tokens in (("none", None), ("ngram", None), ("ngram", 1), ("auto", 2))
    ]
    each = sizes[2] - sizes[0]
    assert each > 0
    assert sizes == [sizes[0] + count * each for count in (0, 4, 1, 2)]


def test_only_the_first_layer_of_mimo_v2_drafts():
    config = {"model_type": "mimo_v2_flash", "num_nextn_predict_layers": 3}
    assert draft_count(config, config) == 1
    assert draft_count({}, {**config, "model_type": "mimo"}) == 3
    with pytest.raises(FitError, match="layers for drafts"):
        draft_count({}, {"mtp_num_hidden_layers": "2"})


def test_a_vision_tower_is_counted_apart():
    config = {**FAMILIES["llama"]}
    tower = {"vision_tower__encoder__layers__9__fc1__weight": Tensor("F16", [64, 32])}
    found = weights(config, **tower)
    assert found.tower == 64 * 32 * 2
    assert found.parameters == weights(config).parameters


@pytest.mark.parametrize(
    ("named", "wanted", "bfloat16", "found"),
    [
        ("bfloat16", "auto", True, "bfloat16"),
        ("bfloat16", "auto", False, "float16"),
        ("float16", "auto", True, "float16"),
        ("float32", "auto", True, "bfloat16"),
        ("torch.float16", "auto", True, "float16"),
        ("bfloat16", "float32", True, "float32"),
        (None, "auto", True, "bfloat16"),
    ],
)
def test_types(named, wanted, bfloat16, found):
    config = {**FAMILIES["llama"], "torch_dtype": named}
    assert model_dtype(checkpoint(config), wanted, bfloat16=bfloat16) == found


def test_a_text_model_within_another():
    text = {**FAMILIES["qwen3"], "model_type": "qwen3"}
    config = {"model_type": "qwen3_vl", "text_config": text, "torch_dtype": "bfloat16"}
    outer, inner = checkpoint(config), checkpoint(text)
    assert outer.text == text
    found = estimate(outer, CARD, Settings())
    assert found.weights == estimate(inner, CARD, Settings()).weights
    assert found.cache.token_bytes == 2 * 64 * 2 * 2 * 4


@pytest.mark.parametrize(
    ("changes", "context"),
    [
        ({}, 4096),
        ({"rope_scaling": FAMILIES["llama-yarn"]["rope_scaling"]}, 16_384),
        ({"rope_scaling": FAMILIES["llama-rope3"]["rope_scaling"]}, 4096),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, 8192),
        ({"rope_scaling": {"type": "su", "factor": 32.0}}, 4096),
        ({"max_position_embeddings": None, "n_positions": 1024}, 1024),
    ],
)
def test_the_context_of_a_model(changes, context):
    config = {**FAMILIES["llama"], **changes}
    assert estimate(checkpoint(config), CARD, Settings()).model_context == context


def test_a_kv_cache_of_8_bits_in_the_checkpoint_is_kept():
    quantization = {
        **FAMILIES["llama-int8"]["quantization_config"],
        "kv_cache_scheme": {"num_bits": 8, "type": "float"},
    }
    config = {**FAMILIES["llama-int8"], "quantization_config": quantization}
    assert estimate(checkpoint(config), CARD, Settings()).kv_dtype == "fp8"


@pytest.mark.parametrize("kind", ["deepseek_v32", "kimi_k3", "whisper"])
def test_what_is_not_computed_is_said(kind):
    config = {**MODELS["DeepSeek-V2-Lite"], "model_type": kind}
    with pytest.raises(FitError, match=f"the KV cache of {kind} models can't be computed yet"):
        estimate(checkpoint(config), CARD, Settings())


def test_an_unknown_state_is_said():
    config = {**FAMILIES["llama"], "model_type": "new", "layer_types": ["mamba"] * 4}
    with pytest.raises(FitError, match="the states of new models can't be computed yet"):
        estimate(Checkpoint("x", config, {}), CARD, Settings())


def test_steps_and_batches_are_those_that_vllm_chooses():
    assert step_tokens(24 * GIB, 32_768, 256) == 2048
    assert step_tokens(80 * GIB, 32_768, 256) == 8192
    assert step_tokens(180 * GIB, 32_768, 256) == 16_384
    assert step_tokens(24 * GIB, 512, 2) == 1024
    assert usual_sequences(24 * GIB) == 256
    assert usual_sequences(80 * GIB) == 1024


def test_more_of_everything_takes_more():
    text = MODELS["Llama-3.1-8B"]

    def beside(tokens, sequences):
        return overhead(text, tokens=tokens, sequences=sequences, element_bytes=2)

    assert beside(8192, 8).activations > beside(2048, 8).activations
    assert beside(2048, 256).activations > beside(2048, 8).activations
    assert beside(2048, 256).graphs > beside(2048, 8).graphs > beside(2048, 1).graphs > 0


@pytest.mark.parametrize(
    "nonsense",
    [
        {"partial_rotary_factor": 1e308},
        {"rope_scaling": {"rope_type": "linear", "factor": float("inf")}},
        {"num_key_value_heads": None, "multi_query_group_num": 0},
        {"num_key_value_heads": None, "n_head_kv": 10**400},
        {"num_hidden_layers": None, "n_layer": 10**9},
        {"num_hidden_layers": None, "n_layer": 1e300},
        {"head_dim": None, "kv_channels": 10**400},
        {"num_attention_heads": None, "n_head": -4},
    ],
)
def test_a_number_of_nonsense_is_refused_in_words(nonsense):
    config = {**FAMILIES["llama"], **nonsense}
    with pytest.raises(FitError, match=r"config\.json"):
        estimate(Checkpoint("x", config, {}), CARD, Settings(sequences=4))


def test_a_configuration_of_nonsense_is_refused_in_words():
    """Whatever stands in it, there is an estimate or a sentence."""
    source = random.Random(3)
    nonsense = [None, "x", -1, 0, 1.5, [], {}, "4096", True, 10**12, [1, 2], {"a": {}}, ["mamba"]]
    configs = list({**FAMILIES, **LAYOUTS}.values())
    keys = ("rope_scaling", "text_config", "quantization_config", "layer_types", "head_dim")
    held = checkpoint(FAMILIES["llama"]).tensors
    refused = 0
    for _ in range(400):
        config = dict(source.choice(configs))
        config[source.choice([*config, *keys])] = source.choice(nonsense)
        try:
            found = estimate(Checkpoint("x", config, held), CARD, Settings(sequences=4))
        except FitError:
            refused += 1
        else:
            found.longest(4)
            json.dumps(msgspec.to_builtins(found))
    assert 50 < refused < 300
