"""A gateway's id is made once, and is the same for all its workers and after a restart."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from vgate.frontend.access.made import gateway_id


def test_all_workers_have_the_same(tmp_path: Path):
    state = tmp_path / "state"
    with ThreadPoolExecutor(8) as workers:
        ids = set(workers.map(gateway_id, [state] * 50))
    assert len(ids) == 1
    assert gateway_id(state) in ids
    assert [path.name for path in state.iterdir()] == ["gateway-id"]
    assert gateway_id(tmp_path / "other") not in ids


def test_without_a_place_for_it_there_is_an_error(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        gateway_id(tmp_path / "file")
