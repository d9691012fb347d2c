"""`bench.fill` says whether a device holds what is promised, here with the simulated engine."""

import pytest

from bench.fill import main


@pytest.fixture(autouse=True)
def small(monkeypatch):
    for name, value in {
        "CONFIG_PATH": "/dev/null",
        "MODEL__MAX_MODEL_LEN": "512",
        "BATCH__MAX_NUM_SEQS": "8",
        "DRY_RUN__STEP_MS": "0",
        "DRY_RUN__PREFILL_TOKENS_PER_S": "1e9",
        "DRY_RUN__KV_CACHE_TOKENS": "4000",
    }.items():
        monkeypatch.setenv(f"VGATE_{name}", value)


def test_it_is_held(capsys):
    assert main(["--backend", "dry_run"]) == 0
    printed = capsys.readouterr().out
    assert "context 512, batch 8, KV cache 4,000 tokens" in printed
    assert "context 508, " in printed
    assert "memory after" in printed


def test_it_is_not_held(capsys, monkeypatch):
    monkeypatch.setenv("VGATE_DRY_RUN__FAULT", "memory")
    monkeypatch.setenv("VGATE_DRY_RUN__FAULT_EVERY", "1")
    monkeypatch.setenv("VGATE_DRY_RUN__FAULT_TOKENS", "3000")
    assert main(["--backend", "dry_run"]) == 1
    assert "out of memory with 3," in capsys.readouterr().out
