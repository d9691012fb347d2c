"""An engine that runs out of memory is a pause, and its successor needs less."""

from pathlib import Path

import httpx

from tests.e2e.instance import Instance, wait_until
from tests.e2e.traffic import Request, endless

FAULT = {
    "dry_run__fault": "memory",
    "dry_run__fault_every": 30,
    "dry_run__fault_batch": 5,
    "dry_run__step_ms": 5,
    "batch__max_num_seqs": 16,
    "batch__max_wait_time_ms": 0,
    "server__workers": 2,
}


def start(run_dirs: Path, state_dir: Path) -> Instance:
    return Instance(run_dirs, dry_run=True, server__state_dir=str(state_dir), **FAULT)


def detail(server: Instance) -> str:
    text: str = httpx.get(server.url + "/ready").json()["engines"][0]["detail"]
    return text


def test_out_of_memory_is_a_pause_and_the_engine_comes_back_smaller(
    run_dirs: Path, tmp_path: Path
) -> None:
    with start(run_dirs, tmp_path) as server:
        requests = [
            Request(server.url, endless(f"number {n} ", stream=n % 2 == 0, max_tokens=40))
            for n in range(24)
        ]
        errors = []
        for number, request in enumerate(requests):
            request.wait()
            said = request.text
            if not request.error and request.status == 200 and number % 2:
                said = request.answer["choices"][0]["message"]["content"]
            if request.error or request.status != 200:
                errors.append((request.error or request.answer)["error"]["message"])
            else:
                assert said == (f"number {number} " * 8)[:40]
        # They ran in both engines that died.
        assert all("ran out of memory" in message for message in errors), errors
        assert len(errors) <= 8
        wait_until(lambda: "reduced twice" in detail(server), 30, "the reduced engine serves")
        assert "batch 4" in detail(server)
        metrics = httpx.get(server.url + "/metrics").text
        assert "vgate_engine_memory_reductions{" in metrics
        assert server.logs().count("out of memory reason=") == 2
        # The last one is small enough.
        again = [Request(server.url, endless(f"{n} ", max_tokens=60)) for n in range(12)]
        assert [request.wait().status for request in again] == [200] * 12
    with start(run_dirs, tmp_path) as server:
        assert "batch 4" in detail(server)
