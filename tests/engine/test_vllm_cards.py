"""What vLLM is told because of the card, for cards that people have; runs without vLLM."""

from pathlib import Path
from typing import Any

import pytest

from vgate.config.model import Model
from vgate.config.models.known import known_vllm
from vgate.engine.backends.base import BackendError
from vgate.engine.backends.vllm.cards import speculation
from vgate.engine.backends.vllm.cards.arguments import Choices, choose
from vgate.engine.backends.vllm.cards.card import Card, free_ram_bytes, wsl_kernel
from vgate.engine.backends.vllm.cards.environment import card_environment, wanted_plugins
from vgate.fit.gpu import GIB

WSL = (5, 15, 167)


def gpu(name: str, capability: tuple[int, int], gib: int, **more: Any) -> Card:
    more = {"free_ram_bytes": 16 * GIB, **more}
    return Card(name=name, capability=capability, memory_bytes=gib * GIB, **more)


CPU = Card(free_ram_bytes=16 * GIB)
T4 = gpu("T4", (7, 5), 15)
RTX_3060 = gpu("RTX 3060", (8, 6), 12)
RTX_3090 = gpu("RTX 3090", (8, 6), 24)
A100 = gpu("A100", (8, 0), 80)
RTX_4060 = gpu("RTX 4060", (8, 9), 8)
H100 = gpu("H100", (9, 0), 80)
B200 = gpu("B200", (10, 0), 180)
RTX_5060 = gpu("RTX 5060", (12, 0), 8)
CARDS = [T4, RTX_3060, RTX_3090, A100, RTX_4060, H100, B200, RTX_5060]


def found(card: Card, *, sequences: int = 8, document: Any = None, **settings: Any) -> Choices:
    mtp = settings.pop("has_mtp", False)
    return choose(Model(**settings), card, document or {}, sequences=sequences, has_mtp=mtp)


def refusal(card: Card, **settings: Any) -> str:
    with pytest.raises(BackendError) as caught:
        found(card, **settings)
    assert caught.value.permanent
    return str(caught.value)


def test_vllm_has_every_argument() -> None:
    everything = {
        "kv_cache_dtype": "fp8",
        "weights_offload_gib": 1,
        "kv_offload_gib": 1,
        "prefix_caching": True,
        "speculation": "ngram",
    }
    arguments = found(RTX_4060, **everything).arguments | found(T4).arguments
    assert len(arguments) == 6
    assert arguments.keys() <= set(known_vllm().arguments)


def named(cards: list[Card]) -> Any:
    return [pytest.param(card, id=card.name or "CPU") for card in cards]


@pytest.mark.parametrize("card", named([RTX_4060, H100, B200, RTX_5060, CPU]))
@pytest.mark.parametrize("kind", ["fp8", "fp8_e4m3", "fp8_e5m2"])
def test_a_kv_cache_of_8_bits_on_cards_since_ada(card: Card, kind: str) -> None:
    chosen = found(card, kv_cache_dtype=kind)
    assert chosen.arguments["kv_cache_dtype"] == kind
    assert any(kind in reason for reason in chosen.reasons)


@pytest.mark.parametrize("card", named([T4, RTX_3060, RTX_3090, A100]))
def test_it_is_refused_on_older_ones(card: Card) -> None:
    told = refusal(card, kv_cache_dtype="fp8")
    assert f"this is {card.name} ({card.version}): set it to auto" in told


@pytest.mark.parametrize("card", named([*CARDS, CPU]))
def test_by_default_the_model_decides(card: Card) -> None:
    arguments = found(card).arguments
    assert arguments.keys() <= {"cudagraph_capture_sizes"}


@pytest.mark.parametrize("setting", ["dtype", "kv_cache_dtype"])
def test_bfloat16_needs_ampere(setting: str) -> None:
    assert f"model.{setting} is bfloat16" in refusal(T4, **{setting: "bfloat16"})
    assert found(RTX_3060, **{setting: "bfloat16"})


def test_a_cpu_keeps_few_types() -> None:
    assert "on a CPU vLLM keeps" in refusal(CPU, kv_cache_dtype="float16")
    assert found(CPU, dtype="bfloat16").arguments == {}


@pytest.mark.parametrize(
    ("method", "card", "words"),
    [
        ("awq", T4, "AWQ weights are computed by Marlin's kernels"),
        ("gptq", RTX_3060, "GPTQ weights are computed by Marlin's kernels"),
        ("compressed-tensors", RTX_4060, "compressed-tensors weights are computed by Marlin's"),
        ("fp8", RTX_3060, "Marlin's kernels widen them: RTX 3060 (8.6) does not compute with 8"),
        ("fp8", RTX_4060, "FP8 weights are computed as they are"),
    ],
)
def test_how_weights_are_computed_is_said(method: str, card: Card, words: str) -> None:
    chosen = found(card, document={"quantization_config": {"quant_method": method}})
    assert any(words in reason for reason in chosen.reasons)


@pytest.mark.parametrize("card", named([T4, RTX_3060, RTX_4060, RTX_5060]))
def test_graphs_for_few_sizes_on_small_cards(card: Card) -> None:
    sizes = found(card, sequences=8).arguments["cudagraph_capture_sizes"]
    # An eighth more sequences may run for keys that have little running.
    assert sizes == [1, 2, 4, 8, 9]
    assert found(card, sequences=3).arguments["cudagraph_capture_sizes"] == [1, 2, 3]
    large = found(card, sequences=1024).arguments["cudagraph_capture_sizes"]
    assert (large[-1], len(large)) == (512, 15)
    assert "cudagraph_capture_sizes" not in found(card, cuda_graphs="all").arguments


@pytest.mark.parametrize("card", named([RTX_3090, A100, H100, B200]))
def test_all_graphs_on_large_ones(card: Card) -> None:
    assert found(card).arguments == {}
    assert "cudagraph_capture_sizes" in found(card, cuda_graphs="few").arguments
    assert found(card, cuda_graphs="none").arguments == {"enforce_eager": True}


def test_graphs_are_the_operators_if_they_say_so() -> None:
    for own in ({"enforce_eager": True}, {"compilation_config": {}}):
        assert found(RTX_4060, engine_args=own, cuda_graphs="none").arguments == {}


def test_weights_and_cache_in_main_memory() -> None:
    chosen = found(RTX_3060, weights_offload_gib=4, kv_offload_gib=8)
    assert chosen.arguments["cpu_offload_gb"] == 4
    assert chosen.arguments["kv_offloading_size"] == 8
    assert len([reason for reason in chosen.reasons if "main memory" in reason]) == 2


@pytest.mark.parametrize("settings", [{"weights_offload_gib": 14}, {"kv_offload_gib": 14}])
def test_main_memory_has_to_suffice(settings: dict[str, float]) -> None:
    told = refusal(RTX_3060, **settings)
    assert "ask for 14.0 GiB of main memory, of which 16.0 GiB are free" in told
    assert found(gpu("3060", (8, 6), 12, free_ram_bytes=0), **settings), "it isn't known"


def test_weights_are_counted_for_each_gpu() -> None:
    told = refusal(RTX_3060, weights_offload_gib=7, tensor_parallel_size=2)
    assert "ask for 14.0 GiB" in told


def test_nothing_is_offloaded_without_a_gpu() -> None:
    chosen = found(CPU, weights_offload_gib=4, kv_offload_gib=100)
    assert chosen.arguments == {}
    assert chosen.reasons == ["nothing is offloaded: without a GPU all is in main memory"]


def test_an_old_wsl_pins_no_memory() -> None:
    old = gpu("RTX 4060", (8, 9), 8, wsl=(4, 19, 104))
    assert "4.19.104 has none: run `wsl --update`" in refusal(old, weights_offload_gib=1)
    assert found(gpu("RTX 4060", (8, 9), 8, wsl=WSL), weights_offload_gib=1)


def test_the_prefix_cache_is_vllms_choice_unless_it_is_set() -> None:
    assert "enable_prefix_caching" not in found(RTX_3060).arguments
    assert found(RTX_3060, prefix_caching=True).arguments["enable_prefix_caching"] is True
    assert found(CPU, prefix_caching=False).arguments == {"enable_prefix_caching": False}
    assert "unset model.prefix_caching" in refusal(T4, prefix_caching=False, kv_offload_gib=1)


class TestSpeculation:
    @pytest.mark.parametrize("card", named(CARDS))
    def test_from_the_text_on_a_gpu(self, card: Card) -> None:
        drafting = found(card, speculation="ngram").arguments["speculative_config"]
        assert drafting == {
            "method": "ngram_gpu",
            "num_speculative_tokens": 4,
            "num_speculative_tokens_per_batch_size": [[1, 7, 4], [8, 8, 0]],
            "prompt_lookup_max": 4,
            "prompt_lookup_min": 2,
        }

    def test_by_the_models_layers(self) -> None:
        for wanted in ("mtp", "auto"):
            chosen = found(H100, speculation=wanted, has_mtp=True, sequences=1)
            drafting = chosen.arguments["speculative_config"]
            assert drafting["method"] == "mtp"
            assert drafting["num_speculative_tokens_per_batch_size"] == [[1, 1, 1]]
        assert "no layers that draft tokens" in refusal(H100, speculation="mtp")

    def test_more_tokens(self) -> None:
        chosen = found(H100, speculation="auto", speculation_tokens=7)
        assert chosen.arguments["speculative_config"]["num_speculative_tokens"] == 7

    @pytest.mark.parametrize("has_numba", [True, False])
    def test_on_a_cpu_numba_is_needed(
        self, monkeypatch: pytest.MonkeyPatch, has_numba: bool
    ) -> None:
        monkeypatch.setattr(speculation, "find_spec", lambda _: has_numba or None)
        if has_numba:
            chosen = found(CPU, speculation="ngram").arguments["speculative_config"]
            assert chosen["method"] == "ngram"
            return
        assert "needs the package numba" in refusal(CPU, speculation="ngram")

    def test_a_cpu_drafts_only_if_it_is_told_to(self) -> None:
        chosen = found(CPU, speculation="auto", has_mtp=True)
        assert chosen.arguments == {}
        assert chosen.reasons == ["no speculation: on a CPU it makes all steps slower"]
        chosen = found(CPU, speculation="mtp", has_mtp=True)
        assert chosen.arguments["speculative_config"]["method"] == "mtp"

    def test_the_operators_own_is_left_alone(self) -> None:
        own = {"engine_args": {"speculative_config": {"method": "eagle"}}}
        assert "speculative_config" not in found(H100, speculation="mtp", **own).arguments

    def test_graphs_are_then_vllms(self) -> None:
        chosen = found(T4, speculation="ngram")
        assert "cudagraph_capture_sizes" not in chosen.arguments
        assert chosen.reasons[-1] == "CUDA graphs are vLLM's, for steps with drafts and without"


EXPANDABLE = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
PINNED = {"VLLM_WSL2_ENABLE_PIN_MEMORY": "1"}


@pytest.mark.parametrize(
    ("settings", "wsl", "expected"),
    [
        ({}, False, EXPANDABLE),
        ({}, True, {}),
        ({"expandable_segments": False}, False, {}),
        ({"expandable_segments": True}, True, EXPANDABLE),
        ({"tensor_parallel_size": 2}, False, {}),
        ({"kv_offload_gib": 2}, False, {}),
        ({"kv_offload_gib": 2}, True, PINNED),
        ({"weights_offload_gib": 2}, False, EXPANDABLE),
        ({"weights_offload_gib": 2}, True, PINNED),
        ({"engine_args": {"enable_sleep_mode": True}}, False, {}),
        ({"engine_args": {"kv_transfer_config": {"kv_connector": "X"}}}, False, {}),
    ],
)
def test_variables(settings: dict[str, Any], wsl: bool, expected: dict[str, str]) -> None:
    assert card_environment(Model(**settings), {}, cpu=False, wsl=wsl) == expected
    assert card_environment(Model(**settings), {}, cpu=True, wsl=wsl) == {}


def test_what_the_operator_says_of_torchs_memory_counts() -> None:
    for name in ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF"):
        environ = {name: "max_split_size_mb:64"}
        assert card_environment(Model(), environ, cpu=False, wsl=False) == {}


def test_segments_cannot_move_what_is_transferred() -> None:
    with pytest.raises(BackendError, match="can't be true while the KV cache is offloaded"):
        card_environment(
            Model(kv_offload_gib=1, expandable_segments=True), {}, cpu=False, wsl=False
        )


def test_an_engine_has_the_plugins_of_its_own_format() -> None:
    installed = ["lora_filesystem_resolver", "gguf", "bitsandbytes"]
    assert wanted_plugins(installed, {"awq"}) == "lora_filesystem_resolver"
    assert wanted_plugins(installed, {"gguf"}) == "gguf,lora_filesystem_resolver"
    assert wanted_plugins(installed[:2], {"gguf"}) is None
    assert wanted_plugins(installed[:1], set()) is None


@pytest.mark.parametrize(
    ("release", "version"),
    [
        ("5.15.167.4-microsoft-standard-WSL2", (5, 15, 167)),
        ("4.19.104-microsoft-standard", (4, 19, 104)),
        ("6.6-Microsoft", (6, 6, 0)),
        ("6.8.0-45-generic", None),
    ],
)
def test_wsl_is_known_by_its_kernel(release: str, version: tuple[int, ...] | None) -> None:
    assert wsl_kernel(release) == version


def test_free_memory_is_that_of_the_container(tmp_path: Path) -> None:
    assert free_ram_bytes(tmp_path) == 0
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/meminfo").write_text("MemTotal: 9000 kB\nMemAvailable: 2048 kB\n")
    assert free_ram_bytes(tmp_path) == 2 << 20
    group = tmp_path / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (group / "memory.current").write_text("1000\n")
    (group / "memory.max").write_text("max\n")
    assert free_ram_bytes(tmp_path) == 2 << 20
    (group / "memory.max").write_text("5000\n")
    assert free_ram_bytes(tmp_path) == 4000
