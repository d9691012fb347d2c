"""API keys: the file, and the ring that finds a request's key."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vgate import keys
from vgate.keys import (
    ApiKey,
    ConfiguredKey,
    KeyFileError,
    KeyRing,
    KeysError,
    hash_key,
)


def line(name, key, **limits):
    return msgspec.json.encode(ApiKey(name, hash_key(key), **limits)).decode()


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "keys.jsonl"


def test_config_and_file_together(key_file):
    key_file.write_text(f"# ours\n\n{line('file', 'three', weight=2.5, min_priority=-3)}\n")
    configured = [
        ConfiguredKey(name="plain", key="one", rate_limit=7),
        ConfiguredKey(
            name="hashed", key_sha256=hash_key("two").upper(), concurrent=3, min_priority=-7
        ),
    ]
    ring = KeyRing.build(configured, key_file)
    assert [key.name for key in ring] == ["plain", "hashed", "file"]
    assert (ring.find("one").name, ring.find("one").rate_limit) == ("plain", 7)
    assert (ring.find("two").name, ring.find("two").concurrent) == ("hashed", 3)
    assert ring.find("three").weight == 2.5
    assert [key.min_priority for key in ring] == [0, -7, -3]
    assert len(ring) == 3


@pytest.mark.parametrize("sent", ["", "On", "one ", hash_key("one"), "\udcff", "ключ"])
def test_other_text_is_an_unknown_key(sent):
    assert KeyRing.build([ConfiguredKey(name="a", key="one")], None).find(sent) is None


@given(key=st.text(min_size=1), other=st.text())
def test_only_the_key_itself_is_found(key, other):
    ring = KeyRing([ApiKey("a", hash_key(key))])
    assert ring.find(key) is not None
    assert (ring.find(other) is not None) == (other == key)


def test_no_plaintext_is_kept():
    ring = KeyRing.build([ConfiguredKey(name="a", key="plaintext-secret")], None)
    assert "plaintext-secret" not in repr([vars(ring), ring.find("plaintext-secret")])


def test_the_hash_of_nothing_lets_nobody_in(key_file):
    key_file.write_text(line("unset", ""))
    for configured, file in (
        ([ConfiguredKey(name="unset", key_sha256=hash_key(""))], None),
        ([], key_file),
    ):
        with pytest.raises(KeysError, match="`unset` is that of an empty key"):
            KeyRing.build(configured, file)


@pytest.mark.parametrize("key", ["schlüssel", " one", "one ", "o\tne", "one\n", "\x7f"])
def test_a_key_that_no_header_can_carry_is_refused(key):
    with pytest.raises(KeysError, match="no client can send") as raised:
        KeyRing.build([ConfiguredKey(name="a", key=key)], None)
    assert key.strip() not in str(raised.value)
    assert KeyRing.build([ConfiguredKey(name="a", key="o ne~!")], None).find("o ne~!") is not None


def test_duplicates_are_refused(key_file):
    key_file.write_text(line("a", "two"))
    with pytest.raises(KeysError, match="two API keys have the name `a`"):
        KeyRing.build([ConfiguredKey(name="a", key="one")], key_file)
    with pytest.raises(KeysError, match="`b` and `a` are the same key"):
        KeyRing.build([ConfiguredKey(name="b", key="two")], key_file)


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({}, "give either `key` or `key_sha256`"),
        ({"key": "a", "key_sha256": "b"}, "give either `key` or `key_sha256`"),
        ({"key_sha256": "secret"}, "`key_sha256` must be"),
        ({"key": "secret", "weight": 0.0}, "`weight` must be"),
        ({"key": "secret", "min_priority": 2**31}, "`min_priority` must be"),
    ],
)
def test_an_invalid_entry_is_reported_without_its_key(entry, problem):
    with pytest.raises(KeysError) as raised:
        KeyRing.build([ConfiguredKey(name="team", **entry)], None)
    assert f"security.api_keys[0] (`team`): {problem}" in str(raised.value)
    assert "secret" not in str(raised.value)


def test_a_missing_file_has_no_keys(key_file):
    assert keys.read_key_file(key_file) == []


@pytest.mark.parametrize(
    ("text", "line_number", "problem"),
    [
        ("# fine\nnot json", 2, "this is not a JSON object"),
        ('{"name": "a"}', 1, "`sha256` is required"),
        ('{"name": "a", "sha256": "vg-secret"}', 1, "`sha256` must be"),
        ('{"name": "a", "key": "vg-secret"}', 1, "`key` is not a known field"),
        (line("a", "x") + "\n" + line("a", "y"), 2, "the name `a` is in line 1 already"),
        (line("a", "x") + "\n\n" + line("b", "x"), 3, "is in line 1 already"),
        (line("a", "x").replace("}", ',"weight":-1}'), 1, "`weight` must be"),
        ("[" * 5000, 1, "this is not a JSON object"),
    ],
)
def test_a_broken_line_is_reported(key_file, text, line_number, problem):
    key_file.write_text(text)
    with pytest.raises(KeyFileError) as raised:
        keys.read_key_file(key_file)
    message = str(raised.value)
    assert message.startswith(f"{key_file}, line {line_number}: ")
    assert problem in message
    assert "secret" not in message


def test_a_file_that_cannot_be_read_is_reported(key_file):
    key_file.mkdir()
    with pytest.raises(KeyFileError, match=r"keys\.jsonl: Is a directory"):
        keys.read_key_file(key_file)
    key_file.rmdir()
    key_file.write_bytes(b"\xff")
    with pytest.raises(KeyFileError, match="not text in UTF-8"):
        keys.read_key_file(key_file)


def test_generated_keys_are_long_and_differ():
    made = {keys.generate_key() for _ in range(100)}
    assert len(made) == 100
    for key in made:
        assert key.startswith("vg-")
        assert len(key) >= 3 + 32
        assert set(key) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_")
