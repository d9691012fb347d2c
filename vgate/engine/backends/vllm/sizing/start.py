"""Chooses what `auto` stands for before vLLM loads, and the context once vLLM has measured.

What was asked for and does not fit is lowered here too, and said.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
from vllm.v1.core import kv_cache_utils

from vgate.config import Config
from vgate.engine.backends.base import Allowance, BackendError
from vgate.engine.backends.gpus import GpuFigures
from vgate.engine.backends.vllm.failures import is_cpu_build
from vgate.engine.backends.vllm.sizing.facts import (
    checkpoint_of,
    figures_of,
    kv_bytes,
    own_context,
    sequences_by_vllm,
)
from vgate.fit import FitError, Settings
from vgate.fit.gpu import Card
from vgate.sizing import choice
from vgate.sizing.choice import Plan
from vgate.sizing.room import Room, gpu_room, host_memory, host_room, is_wsl

# What a GPU is given whose driver doesn't tell its memory.
_UNKNOWN_SHARE = 0.7
# A batch and a KV cache on the CPU for models that can't be computed.
_SEQUENCES = 32
_LEAST_KV_BYTES = 64 << 20
_BFLOAT16_SINCE, _FP8_SINCE = 8.0, 8.9


class Sizing:
    """What an engine's start takes, and why.

    Args:
        config: As it is given.
        arguments: vLLM's, as far as they are known.
        directory, document: The model's, and its config.json.
        allowance: What the start may take at most, where it chooses.

    Attributes:
        config: With numbers instead of `auto`, for messages.
        arguments: vLLM's, with what was chosen.
        reasons: What else was chosen for the card, and why.

    Raises:
        BackendError: The model can't fit.
    """

    def __init__(
        self,
        config: Config,
        arguments: dict[str, Any],
        directory: Path,
        document: dict[str, Any],
        allowance: Allowance,
    ) -> None:
        self._given, self._document, self._allowance = config, document, allowance
        self._cpu = is_cpu_build()
        self._own = own_context(config, arguments)
        self._checkpoint = checkpoint_of(directory)
        self._room: Room | None = None
        self.reasons: list[str] = []
        settings = choice.settings_of(config.model, config.batch, eager=self._cpu)
        plan = self._for_host(settings, arguments) if self._cpu else self._for_gpu(settings)
        if plan.problem:
            raise BackendError(plan.problem, permanent=self._is_alone())
        self.arguments = arguments | self._chosen(plan, settings, arguments)
        self.config = _with_numbers(config, self.arguments)

    def watch(self, vllm_config: Any) -> None:
        """Have the context chosen once vLLM has measured what is left for the KV cache."""
        # vLLM fits the context then, and tells the workers, if -1 was asked for.
        vllm_config.model_config.original_max_model_len = -1
        kv_cache_utils._auto_fit_max_model_len = self._fit  # noqa: SLF001

    def _fit(self, vllm_config: Any, groups: list[Any], available: list[int]) -> None:
        """Choose the context by the groups of layers of each worker, and its memory for them."""
        model, wanted = vllm_config.model_config, self._given.model.max_model_len
        estimated = kv_cache_utils._estimate_max_model_len_from_groups  # noqa: SLF001
        workers = [pair for pair in zip(groups, available, strict=True) if pair[0]]

        def longest(answers: int) -> int:
            each = (estimated(vllm_config, own, memory // answers) for own, memory in workers)
            found: int = min(each, default=model.max_model_len)
            return found

        most = model.max_model_len
        context = choice.longest_context(longest, most) if wanted == "auto" else longest(1)
        # Where nothing useful fits, vLLM says what is lacking.
        if min(choice.LEAST_TOKENS, most) <= context < most:
            model.max_model_len = context

    def told(self, context: int, sequences: int) -> str:
        """Return what was chosen, and what was lowered, for people; "" if nothing was."""
        return ", ".join([*self._parts(context, sequences), *self.reasons])

    def _parts(self, context: int, sequences: int) -> Iterator[str]:
        given, batch = self._given.model, self._given.batch
        if given.max_model_len == "auto":
            own = f"of the model's {self._own:,}" if context < self._own else "(the model's own)"
            yield f"context {context:,} {own}"
        elif context < given.max_model_len:
            yield f"context lowered from {given.max_model_len:,} to {context:,}: no more fits"
        if batch.max_num_seqs == "auto":
            yield f"up to {sequences:,} answers at once"
        if self._room is None:
            if not self._cpu and given.gpu_memory_utilization == "auto":
                yield f"{_UNKNOWN_SHARE:.0%} of the GPU, whose driver doesn't tell its memory"
            return
        share, why = self.arguments["gpu_memory_utilization"], self._room.why
        if self._cpu:
            yield why
        elif given.gpu_memory_utilization == "auto":
            yield f"{share:.1%} of the GPU: {why}"
        elif share < given.gpu_memory_utilization:
            yield f"the GPU's share lowered from {given.gpu_memory_utilization:g} to {share}: {why}"

    def _for_gpu(self, settings: Settings) -> Plan:
        model, figures = self._given.model, figures_of(self._given)
        if figures:
            self._room = min((self._gpu_room(gpu) for gpu in figures), key=lambda room: room.usable)
        if self._room is None or self._checkpoint is None or len(figures) > 1:
            return Plan(context=settings.context, sequences=settings.sequences)
        capability = figures[0].capability
        card = Card(
            total=self._room.total,
            utilization=self._share(),
            fp8=capability >= _FP8_SINCE,
            bfloat16=not capability or capability >= _BFLOAT16_SINCE,
        )
        room = msgspec.structs.replace(self._room, usable=min(card.usable, self._room.most))
        offloads = any("offload" in name for name in model.engine_args)
        with suppress(FitError):
            bounded = choice.is_bounded(model, self._given)
            plan = choice.for_gpu(self._checkpoint, card, room, settings, bounded=bounded)
            if plan.kv_bytes is not None:
                # After a lack of memory, too, its bound is what it was.
                kv = int(plan.kv_bytes * self._allowance.share)
                plan = msgspec.structs.replace(plan, kv_bytes=kv)
            return msgspec.structs.replace(plan, problem="") if offloads else plan
        return Plan(context=settings.context, sequences=settings.sequences)

    def _gpu_room(self, gpu: GpuFigures) -> Room:
        return gpu_room(
            gpu.total,
            gpu.free,
            desktop=gpu.desktop,
            wsl=is_wsl(),
            share=self._allowance.share,
            bound=self._given.model.memory_bytes,
        )

    def _share(self) -> float:
        """Return vLLM's gpu_memory_utilization: what is asked for, or what is free of it."""
        given = self._given.model.gpu_memory_utilization
        if self._room is None:
            return _UNKNOWN_SHARE * self._allowance.share if given == "auto" else given
        return self._room.share if given == "auto" else min(given, self._room.most_share)

    def _for_host(self, settings: Settings, arguments: dict[str, Any]) -> Plan:
        model = self._given.model
        bound, free = model.memory_bytes, host_memory()
        workers = model.tensor_parallel_size * model.pipeline_parallel_size
        self._room = host_room(free, bound=bound, halvings=self._allowance.halvings)
        given = arguments.get("kv_cache_memory_bytes")
        if self._checkpoint is not None and workers == 1:
            with suppress(FitError):
                return choice.for_host(self._checkpoint, self._room, settings, self._own, given)
        context = settings.context or min(self._own, choice.NEEDED_TOKENS)
        full = kv_bytes(self._document, context, settings.sequences or _SEQUENCES)
        share = self._room.kv // workers
        kv = max(_LEAST_KV_BYTES, share if full is None else min(full, share))
        return Plan(context=context, sequences=settings.sequences, kv_bytes=given or kv)

    def _chosen(self, plan: Plan, settings: Settings, arguments: dict[str, Any]) -> dict[str, Any]:
        model = self._given.model
        workers = model.tensor_parallel_size * model.pipeline_parallel_size
        sequences = settings.sequences
        if sequences is None:
            usual = sequences_by_vllm(workers, arguments)
            sequences = max(1, min(usual, plan.sequences or usual) >> self._allowance.halvings)
        context = settings.context
        if context is None:
            context = min(self._own, plan.context or self._own)
        chosen = {
            "max_model_len": context,
            "max_num_seqs": sequences,
            "gpu_memory_utilization": self._share(),
        }
        if plan.kv_bytes is not None:
            chosen["kv_cache_memory_bytes"] = plan.kv_bytes
        return chosen

    def _is_alone(self) -> bool:
        """Whether no other program holds much of the memory: a restart would change nothing."""
        room = self._room
        return room is not None and (self._cpu or room.free > room.total * 0.9)


def _with_numbers(config: Config, arguments: dict[str, Any]) -> Config:
    model = msgspec.structs.replace(
        config.model,
        max_model_len=arguments["max_model_len"],
        gpu_memory_utilization=arguments["gpu_memory_utilization"],
    )
    batch = msgspec.structs.replace(config.batch, max_num_seqs=arguments["max_num_seqs"])
    return msgspec.structs.replace(config, model=model, batch=batch)
