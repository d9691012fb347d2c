"""The key files of links between hosts."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from vgate.wire.curve import new_secret, public_of
from vgate.wire.link_keys import (
    ALLOWED,
    ENGINE_KEY,
    ENGINE_PUBLIC,
    FRONTEND_KEY,
    FRONTEND_PUBLIC,
    AllowList,
    LinkKeyError,
    allow,
    allow_only,
    client_keys,
    make_keys,
    read_allowed,
    read_key,
    server_keys,
)

OTHER = public_of(new_secret())


def test_both_sides_fit(tmp_path):
    made = make_keys(tmp_path / "deep" / "keys")
    client, server = client_keys(made[0].parent), server_keys(made[0].parent)
    assert client.server == public_of(server.secret)
    assert server.allows(public_of(client.secret))
    assert not server.allows(OTHER)
    assert client_keys(made[0].parent, OTHER.hex()).server == OTHER


def test_only_the_user_can_read_them(tmp_path):
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in make_keys(tmp_path))


def test_those_made_at_once_fit(tmp_path):
    with ThreadPoolExecutor(4) as threads:
        for number in range(50):
            directory = tmp_path / str(number)
            made = threads.map(lambda _, to=directory: make_keys(to), range(4))
            assert sorted(map(len, made)) == [0, 0, 0, 5]
            client, server = client_keys(directory), server_keys(directory)
            assert client.server == public_of(server.secret)
            assert server.allows(public_of(client.secret))
            assert read_key(directory / FRONTEND_PUBLIC) == public_of(client.secret)


def test_what_exists_stays(tmp_path):
    make_keys(tmp_path)
    before = {path: path.read_text() for path in tmp_path.iterdir()}
    assert make_keys(tmp_path) == []
    (tmp_path / ENGINE_PUBLIC).unlink()
    assert make_keys(tmp_path) == [tmp_path / ENGINE_PUBLIC]
    assert {path: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_lost_secret_key_gets_another_pair(tmp_path):
    make_keys(tmp_path)
    earlier = read_key(tmp_path / ENGINE_PUBLIC)
    (tmp_path / ENGINE_KEY).unlink()
    make_keys(tmp_path)
    assert read_key(tmp_path / ENGINE_PUBLIC) == public_of(read_key(tmp_path / ENGINE_KEY))
    assert read_key(tmp_path / ENGINE_PUBLIC) != earlier


def test_a_list_has_comments_and_names(tmp_path):
    path = tmp_path / ALLOWED
    path.write_text(f"# who\n\n  {OTHER.hex()}  box # ours\n")
    assert read_allowed(path) == {OTHER}
    assert not allow(path, OTHER, "again")
    one = public_of(new_secret())
    assert allow(path, one, "one")
    assert read_allowed(path) == {OTHER, one}
    assert path.read_text().startswith("# who\n")


def test_a_key_takes_the_place_of_others_that_have_its_name(tmp_path):
    path = tmp_path / ALLOWED
    first, second = (public_of(new_secret()) for _ in range(2))
    path.write_text(f"# who\n{OTHER.hex()} box\n")
    allow_only(path, first, "joined-1")
    allow_only(path, first, "joined-2")
    before = path.stat().st_ino
    allow_only(path, first, "joined-1")
    assert path.stat().st_ino == before
    allow_only(path, second, "joined-1")
    assert path.read_text().splitlines() == [
        "# who",
        f"{OTHER.hex()} box",
        f"{first.hex()} joined-2",
        f"{second.hex()} joined-1",
    ]
    allow_only(path, second, "joined-2")
    assert read_allowed(path) == {OTHER, second}


@pytest.mark.parametrize("text", ["", "ab", "g" * 64, "a" * 63, "a" * 64 + " b", "é" * 64])
def test_a_broken_key_is_told(tmp_path, text):
    (tmp_path / FRONTEND_KEY).write_text(text)
    with pytest.raises(LinkKeyError, match=r"frontend\.key"):
        read_key(tmp_path / FRONTEND_KEY)


def test_a_changed_list_counts_and_a_broken_one_does_not(tmp_path):
    make_keys(tmp_path)
    path = tmp_path / ALLOWED
    known = AllowList(path)
    assert not known.allows(OTHER)
    allow(path, OTHER, "other")
    assert known.allows(OTHER)
    path.write_text("broken")
    assert known.allows(OTHER)
    path.unlink()
    assert known.allows(OTHER)
    path.write_text("# nobody\n")
    assert not known.allows(OTHER)
