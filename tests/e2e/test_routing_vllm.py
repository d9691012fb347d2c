"""Two real engines behind two frontends: what vLLM caches is what frontends look for."""

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.e2e.instance import Instance, wait_until
from tests.e2e.test_routing import ask, routed, serving, user

# vLLM's on a CPU.
BLOCK = 128

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(330)]


@pytest.fixture(scope="module")
def server(run_dirs: Path, tiny_model_dir: Path) -> Iterator[Instance]:
    with Instance(
        run_dirs,
        dry_run=False,
        server__workers=2,
        model__model_id=str(tiny_model_dir),
        model__served_model_name="tiny",
        model__dtype="float32",
        model__replicas=2,
    ) as server:
        wait_until(lambda: serving(server) == 2, 120, "both serve")
        yield server


def test_conversations_find_their_prefix_in_the_engine_that_has_it(server: Instance) -> None:
    async def talk(number: int) -> list[tuple[int, int]]:
        messages, found = [user(f"{number} begins a long story " * 100)], []
        for turn in range(4):
            usage = (await ask(server, messages, 16)).json()["usage"]
            cached = usage["prompt_tokens_details"]["cached_tokens"]
            found.append((usage["prompt_tokens"], cached))
            messages += [{"role": "assistant", "content": f"{turn} it is"}, user("and then?")]
            await asyncio.sleep(0.2)
        return found

    async def scenario() -> list[list[tuple[int, int]]]:
        return await asyncio.gather(*(talk(number) for number in range(8)))

    for turns in asyncio.run(scenario()):
        for (before, _), (_, cached) in pairwise(turns):
            assert cached >= before - BLOCK - 16
    reasons = routed(server, "reason")
    assert reasons["prefix"] >= 20
    assert len(routed(server, "replica")) == 2
