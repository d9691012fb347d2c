"""vLLM is filled once for its card, model and settings, and no overload ends it later."""

import asyncio
import resource
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.e2e.instance import Instance

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(330)]

CONTEXT = 512
# What an engine may take beyond what it has when it is ready.
ROOM_BYTES = 512 * 2**20


@pytest.fixture(scope="module")
def starts(
    run_dirs: Path, tiny_model_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Instance]]:
    """The first start's log, and the second one."""
    settings = {
        "model__model_id": str(tiny_model_dir),
        "model__served_model_name": "tiny",
        "model__dtype": "float32",
        "model__max_model_len": CONTEXT,
        "model__fill": "auto",
        "model__engine_args": {"kv_cache_memory_bytes": 8 * CONTEXT * 512},
        "batch__max_num_seqs": 8,
        "batch__max_queue_size": 64,
        "server__state_dir": str(tmp_path_factory.mktemp("state")),
    }
    with Instance(run_dirs, dry_run=False, **settings) as first:
        log = first.logs()
    with Instance(run_dirs, dry_run=False, **settings) as second:
        yield log, second


def test_it_is_filled_once(starts: tuple[str, Instance]) -> None:
    first, second = starts
    for phase in ("filling the context", "filling the batch"):
        assert phase in first
        assert phase not in second.logs()
    assert f"filled context={CONTEXT - 4} " in first


def requests() -> Iterator[dict[str, Any]]:
    """More of everything than there is room for."""
    words = "a b c d " * CONTEXT
    whole = list(range(3, CONTEXT))
    for number in range(8):
        many = {"max_tokens": 16, "ignore_eos": True, "seed": number}
        yield {"prompt": whole[: -number - 1], **many}
        yield {"prompt": [number + 5, *whole], "max_tokens": 8}
        yield {"prompt": words, "max_tokens": 8}
        yield {"prompt": [number + 3], "n": 4, "logprobs": 5, "top_p": 0.9, **many}
        yield {"prompt": "x", "logit_bias": {str(n): number for n in range(1024)}, **many}
        yield {"prompt": "x", "logit_bias": {str(n): 1 for n in range(1025)}}
        yield {"prompt": "x", "guided_regex": f"[a-z]{{{number + 1}}}", "max_tokens": 20}
        yield {"prompt": "x", "guided_regex": "(" * number + "a{1,900}" + "){1,900}" * number}
        yield {"prompt": whole[:400], "presence_penalty": 1.5, "repetition_penalty": 1.2, **many}
    for _ in range(2):
        yield {"prompt": whole[:500], "prompt_logprobs": 20, "max_tokens": 1}
        yield {"prompt": whole[:500], "echo": True, "logprobs": 5, "max_tokens": 1}


async def statuses(url: str) -> Counter[int]:
    """Send all requests at once; return how they ended."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=url, timeout=280, limits=limits) as client:
        sent = [
            client.post("/v1/completions", json={"model": "tiny", **request})
            for request in requests()
        ]
        return Counter(response.status_code for response in await asyncio.gather(*sent))


def test_no_overload_ends_it(starts: tuple[str, Instance]) -> None:
    _, server = starts
    engine = psutil.Process(server.pid_of("engine"))
    most = engine.memory_info().vms + ROOM_BYTES
    engine.rlimit(resource.RLIMIT_AS, (most, most))
    found = asyncio.run(statuses(server.url))
    assert set(found) <= {200, 400, 503}, found
    assert server.pid_of("engine") == engine.pid, server.logs()
    assert found[200] > 10, found
    answer = httpx.post(
        server.url + "/v1/completions",
        json={"model": "tiny", "prompt": "x", "max_tokens": 4},
        timeout=60,
    )
    assert answer.status_code == 200
    assert server.has_problem() is None
