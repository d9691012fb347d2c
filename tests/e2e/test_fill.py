"""What is promised is filled once before the server is ready, or lowered and said."""

import re
from pathlib import Path

import httpx

from tests.e2e.instance import Instance, wait_until

FAULT = {
    "model__fill": "always",
    "dry_run__fault": "memory",
    "dry_run__fault_every": 1,
    "dry_run__step_ms": 1,
    "dry_run__prefill_tokens_per_s": 1e6,
    "dry_run__kv_cache_tokens": 20_000,
    "batch__max_num_seqs": 16,
}


def test_what_can_not_be_held_is_lowered_before_it_is_promised(
    run_dirs: Path, tmp_path: Path
) -> None:
    settings = {**FAULT, "server__state_dir": str(tmp_path), "dry_run__fault_tokens": 10_000}
    with Instance(run_dirs, dry_run=True, **settings) as server:
        detail = httpx.get(server.url + "/ready").json()["engines"][0]["detail"]
        assert "batch 4" in detail
        assert "reduced twice" in detail
        logs = server.logs()
        for attempt in (1, 2):
            said = rf"tokens in the KV cache, of 20,000 .*starts again smaller \({attempt} of 2\)"
            assert re.search(said, logs), logs
        assert "Traceback" not in logs


def test_what_can_never_be_held_ends_in_a_sentence(run_dirs: Path, tmp_path: Path) -> None:
    settings = {**FAULT, "server__state_dir": str(tmp_path), "dry_run__fault_tokens": 1000}
    server = Instance(run_dirs, dry_run=True, **settings).launch()
    try:
        process = server.process
        assert process is not None
        wait_until(lambda: process.poll() is not None, 60, "it gives up")
        assert process.returncode
        logs = server.logs()
        last = logs.splitlines()[-1]
        assert "lower model.max_model_len" in last, logs
        assert "Smaller starts failed, too." in last
        assert "Traceback" not in logs
    finally:
        server.discard()
