"""The file of the engines that have joined a server, and of its invitations."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from vgate.config import Config
from vgate.config.joined import JoinedEngine, JoinedFile, JoinError
from vgate.config.schema import Server

BOX = JoinedEngine(name="box", addresses=["tcp://10.0.0.2:5710"], model="m", public_key="a" * 64)


@pytest.fixture
def file(tmp_path):
    return JoinedFile(Config(server=Server(state_dir=str(tmp_path / "state"))))


def test_a_token_counts_once(file):
    token, other = file.invite("m", 60), file.invite("e", 60)
    assert file.invitation(token).model == "m"
    file.join(token, BOX)
    assert file.engines() == [BOX]
    for wrong in (token, "", other[:-1]):
        with pytest.raises(JoinError, match="vgate engines invite"):
            file.join(wrong, BOX)
    assert file.invitation(other).model == "e"


def test_a_token_expires(file, monkeypatch):
    token = file.invite("m", 60)
    monkeypatch.setattr("vgate.config.joined.time.time", lambda: 10.0**10)
    with pytest.raises(JoinError, match="expired"):
        file.join(token, BOX)
    assert file.engines() == []


def test_a_host_that_joins_again_replaces_itself(file):
    moved = JoinedEngine(**{n: getattr(BOX, n) for n in BOX.__struct_fields__} | {"joined": 2.0})
    file.join(file.invite("m", 60), BOX)
    file.join(file.invite("m", 60), moved)
    assert file.engines() == [moved]


def test_a_host_with_another_name_and_key_replaces_what_had_its_address(file):
    fields = {name: getattr(BOX, name) for name in BOX.__struct_fields__}
    other = JoinedEngine(**fields | {"name": "other", "addresses": ["tcp://10.0.0.3:5710"]})
    renamed = JoinedEngine(**fields | {"name": "new", "public_key": "b" * 64})
    for each in (BOX, other, renamed):
        file.join(file.invite("m", 60), each)
    assert file.engines() == [other, renamed]


def test_a_host_is_removed_by_its_name(file):
    file.join(file.invite("m", 60), BOX)
    with pytest.raises(JoinError, match="there are: box"):
        file.remove("other")
    file.remove("box")
    assert file.engines() == []


def test_neither_token_nor_file_is_for_others(file):
    token = file.invite("m", 60)
    assert token not in file.path.read_text()
    assert file.path.stat().st_mode & 0o777 == 0o600


def test_a_broken_file_is_told_and_kept(file):
    file.path.parent.mkdir()
    file.path.write_text("{")
    for act in (file.engines, lambda: file.invite("m", 60), lambda: file.remove("x")):
        with pytest.raises(JoinError, match="cannot read"):
            act()
    assert file.path.read_text() == "{"


def test_what_could_not_be_read_again_is_not_written(file):
    token = file.invite("m", 60)
    fields = {name: getattr(BOX, name) for name in BOX.__struct_fields__}
    with pytest.raises(JoinError, match="addresses"):
        file.join(token, JoinedEngine(**fields | {"addresses": ["tcp://[gpu-1:1]:1"]}))
    file.join(token, BOX)
    assert file.engines() == [BOX]


def test_of_many_that_use_a_token_at_once_one_joins(file):
    token = file.invite("m", 60)

    def join(number: int) -> bool:
        fields = {name: getattr(BOX, name) for name in BOX.__struct_fields__}
        try:
            file.join(token, JoinedEngine(**fields | {"name": f"box-{number}"}))
        except JoinError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(join, range(8))) == 1
    assert len(file.engines()) == 1
