"""The keys in force are the last that could be used, for a new worker as well."""

import asyncio

import pytest

from vgate.config.schema import RateLimiting, Security
from vgate.frontend.access.authentication import KeySource
from vgate.key_file import KeyFile
from vgate.keys import ApiKey, ConfiguredKey, KeysError

CONFIGURED = ConfiguredKey(name="configured", key="sk-configured")


@pytest.fixture
def key_file(tmp_path):
    return tmp_path / "keys.jsonl"


@pytest.fixture
def kept(tmp_path):
    return tmp_path / "kept.jsonl"


@pytest.fixture
def source(key_file, kept):
    """Makes the source of one worker."""

    def source_():
        security = Security(enabled=True, api_keys=[CONFIGURED], key_file=str(key_file))
        return KeySource(security, kept)

    return source_


@pytest.fixture
def secret(key_file):
    return KeyFile(key_file).add(ApiKey("file", "0" * 64, rate_limit=7, weight=2.0))


def break_it(key_file):
    key_file.write_text("{broken")


def remove_it(key_file):
    key_file.unlink()


def looks(watcher):
    """Return after how many looks it says that the file has changed."""
    return next(number for number in range(1, 10) if watcher.changed())


@pytest.mark.parametrize("spoil", [break_it, remove_it])
def test_what_was_read_last_is_kept_for_workers_to_come(source, key_file, kept, secret, spoil):
    worker = source()
    assert [key.name for key in worker.first()] == ["configured", "file"]
    assert kept.stat().st_mode & 0o777 == 0o600
    assert "sk-configured" not in kept.read_text()
    spoil(key_file)
    assert looks(worker.watcher) < 5
    with pytest.raises(KeysError):
        worker.read()
    found = source().first()
    assert [key.name for key in found] == ["configured", "file"]
    assert (found.find(secret).rate_limit, found.find(secret).weight) == (7, 2.0)
    assert found.find("sk-configured").name == "configured"


def test_a_key_that_was_revoked_does_not_come_back(source, key_file, secret):
    source().first()
    KeyFile(key_file).revoke("file")
    assert source().first().find(secret) is None
    break_it(key_file)
    assert source().first().find(secret) is None


def test_a_file_that_was_never_there_holds_no_keys(source, key_file, secret):
    key_file.unlink()
    worker = source()
    for _ in range(2):
        assert [key.name for key in worker.first()] == ["configured"]
    assert not worker.watcher.changed()
    KeyFile(key_file).add(ApiKey("late", "0" * 64))
    assert looks(worker.watcher) == 2
    assert [key.name for key in worker.read()] == ["configured", "late"]


def test_keys_that_never_could_be_used_are_an_error(source, key_file):
    break_it(key_file)
    with pytest.raises(KeysError):
        source().first()


def test_without_a_key_file_nothing_changes_or_is_kept(kept):
    worker = KeySource(Security(enabled=True, api_keys=[CONFIGURED]), kept)
    assert [key.name for key in worker.first()] == ["configured"]
    assert worker.watcher is None
    assert not kept.exists()


def test_no_valid_key_is_refused_while_the_file_is_written_in_place(serve, key_file):
    secrets = [KeyFile(key_file).add(ApiKey(f"key-{number}", "0" * 64)) for number in range(20)]
    before = key_file.read_bytes()
    late = KeyFile(key_file).add(ApiKey("late", "0" * 64))
    after = key_file.read_bytes()

    async def write(content):
        """As an editor does, but slowly: empty, cut at a line's end, cut in a line, complete."""
        with key_file.open("wb", buffering=0) as file:
            await asyncio.sleep(0.01)
            lines = content.splitlines(keepends=True)
            for part in (b"".join(lines[:7]), lines[7][:20], lines[7][20:], b"".join(lines[8:])):
                file.write(part)
                await asyncio.sleep(0.01)

    async def scenario(gateway):
        async def status(secret):
            answer = await gateway.request("GET", "/v1/models", authorization=f"Bearer {secret}")
            return answer.status

        async def rewrite():
            for _ in range(60):
                await write(before)
            await write(after)

        rewriting = asyncio.ensure_future(rewrite())
        seen = set()
        while not rewriting.done():
            seen.add(await status(secrets[-1]))
            await asyncio.sleep(0.002)
        assert seen == {200}
        accepted = False
        while not accepted:
            accepted = await status(late) == 200
            assert await status(secrets[-1]) == 200
            await asyncio.sleep(0.01)
        key_file.write_bytes(before)
        while accepted:
            accepted = await status(late) == 200
            await asyncio.sleep(0.01)

    key_file.write_bytes(before)
    security = Security(
        enabled=True, key_file=str(key_file), rate_limiting=RateLimiting(enabled=False)
    )
    serve(scenario, engine=False, security=security)
