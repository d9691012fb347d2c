"""``vgate fit``: what a model takes of a GPU, and what context and how many answers fit."""

import argparse
import json
import sys
from typing import Any

import msgspec

from vgate.commands.command import EXIT_FAILED, EXIT_OK, CommandError
from vgate.commands.models.sizes import add_vram, card_size
from vgate.commands.text import DIM, plain, styled, table
from vgate.config import Config
from vgate.config.models.names import check_name
from vgate.config.models.settings import CheckpointError
from vgate.fit import Checkpoint, Estimate, FitError, estimate, read_checkpoint
from vgate.fit.advice import Change, advice
from vgate.fit.checkpoint import ReadPart
from vgate.fit.estimate import KV_DTYPES
from vgate.fit.gpu import GIB, MIB, USUAL_SHARE, Card
from vgate.fit.hub import from_hub
from vgate.fit.nvidia import cards
from vgate.fit.short_names import repository
from vgate.sizing.choice import settings_of

NEEDS_CONFIG = False

_CONTEXTS = (2048, 4096, 8192, 16_384, 32_768, 65_536, 131_072, 262_144, 1_048_576)
# What types of safetensors files are to people.
_KINDS = {"I32": "packed", "U8": "packed", "I8": "8 bit", "F8_E4M3": "FP8", "F32": "32 bit"}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.description = (
        "Say what a model takes of a GPU's memory, what context and how many answers at once fit, "
        "and what to change so that more fits. Only the model's config.json and the headers of its "
        "weights are read, from a directory, the Hub's cache, or the Hub."
    )
    parser.epilog = (
        "Exit status: 0 it fits, 1 it does not or the model can't be read, 2 an argument is wrong."
    )
    add = parser.add_argument
    add("model_name", metavar="MODEL", help="directory, Hub name or short name")
    add_vram(parser)
    add("--concurrency", type=_count, metavar="N", help="how many answers at once must fit")
    add("--context", type=_count, metavar="TOKENS", help="the context that each must have")
    add(
        "--utilization",
        type=_share,
        metavar="SHARE",
        help="share of the memory for vLLM (model.gpu_memory_utilization)",
    )
    add("--kv-dtype", choices=KV_DTYPES, help="numbers of the KV cache (model.kv_cache_dtype)")
    add(
        "--quantization",
        choices=("bitsandbytes", "fp8"),
        help="make plain weights small while they are loaded",
    )
    add("--revision", metavar="NAME", help="branch, tag or commit on the Hub")
    add("--json", action="store_true", help="print one JSON object")


def run(options: argparse.Namespace, config: Config) -> int:
    """Show what fits; return the exit status."""
    card = _card(options, config)
    checkpoint = _checkpoint(repository(options.model_name, card), options.revision)
    settings = settings_of(config.model, config.batch)
    settings = msgspec.structs.replace(
        settings,
        context=options.context,
        sequences=options.concurrency or settings.sequences,
        kv_cache_dtype=options.kv_dtype or settings.kv_cache_dtype,
        quantization=options.quantization,
    )
    try:
        found = estimate(checkpoint, card, settings)
        changes = advice(checkpoint, found, settings, options.concurrency or 1)
    except FitError as error:
        raise CommandError(str(error)) from None
    if options.json:
        text = json.dumps(_document(found, options, changes), indent=2)
    else:
        text = "\n".join(_lines(found, options, changes))
    sys.stdout.write(f"{text}\n")
    return EXIT_OK if _fits(found, options) else EXIT_FAILED


def _card(options: argparse.Namespace, config: Config) -> Card:
    given = config.model.gpu_memory_utilization
    utilization = options.utilization or (USUAL_SHARE if given == "auto" else given)
    if (size := card_size(options)) is not None:
        return Card(int(size), utilization)
    if found := cards(utilization):
        card = found[0]
        if given == "auto" and not options.utilization:
            # As an engine would choose.
            share = min(utilization, card.most_utilization)
            card = msgspec.structs.replace(card, utilization=share)
        return card
    raise CommandError(
        "this machine shows no NVIDIA GPU (nvidia-smi): name the memory of one, as in --vram 8GiB",
        2,
    )


def _checkpoint(name: str, revision: str | None) -> Checkpoint:
    def fetch(model: str) -> ReadPart:
        try:
            check_name(model)
        except CheckpointError as error:
            raise FitError(str(error).removeprefix("model.model_id: ")) from None
        return from_hub(model, revision)

    try:
        return read_checkpoint(name, revision, fetch)
    except FitError as error:
        raise CommandError(str(error)) from None


def _fits(found: Estimate, options: argparse.Namespace) -> bool:
    sequences = options.concurrency or 1
    if context := options.context:
        possible = found.kv_memory > 0 and context <= found.model_context
        return possible and found.concurrency(context) >= sequences
    return found.longest(sequences) > 0


def _lines(found: Estimate, options: argparse.Namespace, changes: list[Change]) -> list[str]:
    card = found.card
    name = f"{plain(card.name)}, " if card.name else ""
    share = f"of which vLLM may use {card.utilization:.0%}"
    lines = [
        f"{plain(found.model)} on {name}{_gib(card.total)}, {share}",
        "",
        *table(_parts(found), left=3),
    ]
    if card.free is not None and card.most_utilization < card.utilization:
        lines.append(
            f"Other programs use the card: {_gib(card.free)} are free, and vLLM does not start "
            "with less than its share. End them, or lower model.gpu_memory_utilization to "
            f"{card.most_utilization:g}."
        )
    lines += ["", *_answer(found, options)]
    if changes:
        lines += ["", "To fit more:"]
        lines += [f"  {_change(change)}" for change in changes]
    return lines


def _parts(found: Estimate) -> list[tuple[str, str, str]]:
    weights, beside = found.weights, found.overhead
    kinds = ", ".join(
        f"{_gib(size)} {_KINDS.get(kind, kind)}"
        for kind, size in sorted(weights.by_dtype.items())
        if size > MIB
    )
    rows = [("weights", _gib(weights.parameters + weights.tables + weights.copies), kinds)]
    if weights.tower:
        rows.append(("vision and sound", _gib(weights.tower), "in the files' types"))
    step = f"a step of {found.step_tokens:,} tokens, {found.sequences} answers at once"
    rows += [
        ("activations", f"~{_gib(beside.activations)}", step),
        ("CUDA graphs", f"~{_gib(beside.graphs)}", ""),
        ("driver", f"~{_gib(beside.driver)}", ""),
        ("KV cache", _gib(found.kv_memory), _kv(found)),
    ]
    width = max(len(size) for _, size, _ in rows)
    return [(name, size.rjust(width), styled(what, DIM)) for name, size, what in rows]


def _kv(found: Estimate) -> str:
    cache = found.cache
    if not cache.groups:
        return "nothing to keep"
    text = f"{cache.token_bytes / 1024:,.4g} KiB a token in {found.kv_dtype}"
    windows = {group.layer.window for group in cache.groups if hasattr(group.layer, "window")}
    if any(windows):
        text += ", less in layers with a window"
    if len(windows) == 0 or any(not hasattr(group.layer, "window") for group in cache.groups):
        text += ", and a state for each answer"
    return text


def _answer(found: Estimate, options: argparse.Namespace) -> list[str]:
    sequences, context = options.concurrency, options.context
    if found.kv_memory <= 0:
        return [f"It does not fit: {_gib(-found.kv_memory)} are missing before any KV cache."]
    if not found.longest():
        return ["It does not fit: not one answer has room in the KV cache."]
    if context:
        return _answer_of(found, context, sequences or 1)
    if sequences:
        longest = found.longest(sequences)
        if not longest:
            return [f"It does not fit: there is no room for {sequences} answers at once."]
        limit = " (the model's own)" if longest == found.model_context else ""
        room = f"{_several(sequences)} at once: up to {longest:,} tokens of context each{limit}."
        return [room, _settings(found, longest)]
    rows = [("context", "answers at once")]
    longest = found.longest()
    lengths = sorted({*(n for n in _CONTEXTS if n < longest), longest})
    rows += [(f"{n:,}", f"{min(found.concurrency(n), found.sequences):.1f}") for n in lengths]
    return table(rows, left=0)


def _answer_of(found: Estimate, context: int, sequences: int) -> list[str]:
    if context > found.model_context:
        return [f"The model's own context is {found.model_context:,} tokens: no answer has more."]
    fit = found.concurrency(context)
    if fit >= sequences:
        room = f"Room for {_several(int(fit))} of {context:,} tokens at once ({fit:.2f})."
        return [room, _settings(found, context)]
    needed = _gib(sequences * found.cache.sequence_bytes(context))
    wanted = f"{_several(sequences)} of {context:,} tokens would take {needed}"
    longest = found.longest(sequences)
    return [f"It does not fit: {wanted} of KV cache. {longest:,} tokens would fit."]


def _settings(found: Estimate, context: int) -> str:
    return (
        f"Settings for it: model.max_model_len: {context}, batch.max_num_seqs: {found.sequences}, "
        f"model.gpu_memory_utilization: {found.card.utilization:g}"
    )


def _several(count: int) -> str:
    return f"{count} answer{'s' * (count != 1)}"


def _change(change: Change) -> str:
    if change.longest is not None:
        return f"{change.what} -> {change.longest:,} tokens"
    return f"{change.what} -> weights of about {_gib(change.weights or 0)}"


def _document(
    found: Estimate, options: argparse.Namespace, changes: list[Change]
) -> dict[str, Any]:
    sequences = options.concurrency or 1
    longest = found.longest(sequences)
    context = options.context or longest
    return {
        **msgspec.to_builtins(found),
        "weight_bytes": found.weights.total,
        "kv_bytes_per_token": found.cache.token_bytes,
        "kv_bytes_per_sequence": found.cache.sequence_bytes(context) if context else None,
        "fits": _fits(found, options),
        "concurrency": sequences,
        "context": context,
        "max_context": longest,
        "max_concurrency": found.concurrency(context) if context and found.kv_memory > 0 else 0,
        "changes": msgspec.to_builtins(changes),
    }


def _gib(count: float) -> str:
    if abs(count) < GIB / 10:
        return f"{count / MIB:.0f} MiB"
    return f"{count / GIB:.2f} GiB"


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no positive whole number")
    return int(text)


def _share(text: str) -> float:
    try:
        if 0 < (value := float(text)) <= 1:
            return value
    except ValueError:
        pass
    raise argparse.ArgumentTypeError(f"{text!r} is not between 0 and 1")
