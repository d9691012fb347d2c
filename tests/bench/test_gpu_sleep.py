"""The check of sleep on a GPU, with engines that need none."""

import json
from pathlib import Path

from bench.gpu_sleep import main


def test_both_ways_are_measured(tmp_path: Path) -> None:
    out = tmp_path / "found.json"
    main(["a", "b", "--dry-run", "--turns", "1", "--out", str(out)])
    found = json.loads(out.read_bytes())
    for turns in found.values():
        assert len(turns["first_s"]) == len(turns["again_s"]) == 2
        assert turns["changed"] == 0
