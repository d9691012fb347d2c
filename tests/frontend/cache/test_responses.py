"""Stored responses: who finds them, how many stay, and what they outlive."""

import asyncio
import sqlite3
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from tests.frontend.gateway import Gateway, post
from vgate.config.schema import Responses, Security
from vgate.frontend.cache import StoredResponse
from vgate.frontend.cache import responses as module
from vgate.frontend.cache.responses import SqliteResponses
from vgate.keys import ConfiguredKey

PATH = "/v1/responses"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Run a scenario with what opens a store on one file, as a worker does."""
    monkeypatch.setattr(module, "_PAUSE_S", 0.01)
    opened: list[SqliteResponses] = []

    def run(scenario: Callable[..., Awaitable[None]], **bounds: float) -> None:
        async def main() -> None:
            def store() -> SqliteResponses:
                loop = asyncio.get_running_loop()
                made = SqliteResponses(loop, Responses(**bounds), tmp_path / "responses.db")
                opened.append(made)
                return made

            await scenario(store)

        asyncio.run(main())
        for store in opened:
            store.close()

    return run


def response(name: str, size: int = 0) -> StoredResponse:
    return StoredResponse(b"[]" + b" " * size, name.encode())


async def kept(store: SqliteResponses, key: str, *names: str) -> list[str]:
    return [name for name in names if await store.get(key, name)]


def test_a_key_finds_its_own(run):
    async def scenario(open_store):
        store = open_store()
        store.put("a", "r1", ["m1"], response("r1"))
        assert await store.get("a", "r1") == response("r1")
        assert await store.get_item("a", "m1") == response("r1")
        for key, name in (("b", "r1"), ("", "r1"), ("a", "r2")):
            assert await store.get(key, name) is None
        assert await store.get_item("b", "m1") is None
        assert not await store.delete("b", "r1")
        assert await store.delete("a", "r1")
        assert await store.get("a", "r1") is None
        assert await store.get_item("a", "m1") is None

    run(scenario)


def test_other_workers_and_later_instances_find_it(run):
    async def scenario(open_store):
        one, other = open_store(), open_store()
        one.put("a", "r1", [], response("r1"))
        assert await other.get("a", "r1") == response("r1")
        assert await open_store().get("a", "r1") == response("r1")

    run(scenario)


def test_the_oldest_of_a_key_go_first(run):
    async def scenario(open_store):
        store = open_store()
        store.put("b", "other", [], response("x"))
        for number in range(5):
            store.put("a", f"r{number}", [], response("x"))
        assert await kept(store, "a", *(f"r{number}" for number in range(5))) == ["r3", "r4"]
        assert await kept(store, "b", "other") == ["other"]

    run(scenario, max_entries_per_key=2)


def test_all_of_them_are_bounded_in_bytes(run):
    async def scenario(open_store):
        store = open_store()
        for number in range(6):
            store.put(f"key{number}", f"r{number}", [], response("x", size=100))
        left = [n for n in range(6) if await kept(store, f"key{n}", f"r{n}")]
        assert left == [4, 5]
        store.put("key9", "huge", [], response("x", size=1000))
        assert await kept(store, "key9", "huge") == []
        assert await kept(store, "key5", "r5") == ["r5"]

    run(scenario, max_bytes=250)


def test_they_end_by_age(run):
    async def scenario(open_store):
        store = open_store()
        store.put("a", "r1", [], response("r1"))
        assert await store.get("a", "r1")
        await asyncio.sleep(0.5)
        assert await store.get("a", "r1") is None

    run(scenario, ttl_s=0.4)


def test_a_broken_file_harms_no_request(run, tmp_path):
    (tmp_path / "responses.db").write_bytes(b"no database" * 1000)

    async def scenario(open_store):
        store = open_store()
        store.put("a", "r1", [], response("r1"))
        assert await store.get("a", "r1") is None
        assert not await store.delete("a", "r1")

    run(scenario)


def test_nothing_but_the_owner_reads_the_file(run, tmp_path):
    async def scenario(open_store):
        assert await open_store().get("a", "r1") is None

    run(scenario)
    assert (tmp_path / "responses.db").stat().st_mode & 0o077 == 0
    with closing(sqlite3.connect(tmp_path / "responses.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_keys_through_the_app(serve):
    async def scenario(gateway: Gateway):
        async def ask(key: str, **fields):
            return await post(
                gateway, PATH, {"input": "hi", **fields}, authorization=f"Bearer sk-{key}"
            )

        first = (await ask("a")).json
        mine = await ask("a", previous_response_id=first["id"])
        assert (mine.status, mine.json["previous_response_id"]) == (200, first["id"])
        other = await ask("b", previous_response_id=first["id"])
        assert (other.status, other.error["param"]) == (400, "previous_response_id")
        reference = {"type": "item_reference", "id": first["output"][0]["id"]}
        assert (await ask("a", input=[reference, {"role": "user", "content": "x"}])).status == 200
        other = await ask("b", input=[reference])
        assert (other.status, other.error["param"]) == (400, "input[0].id")
        path = f"{PATH}/{first['id']}"
        for key, status in (("b", 404), ("a", 200)):
            answer = await gateway.request("GET", path, authorization=f"Bearer sk-{key}")
            assert answer.status == status
        assert answer.json == first
        answer = await gateway.request("DELETE", path, authorization="Bearer sk-a")
        assert answer.json == {"id": first["id"], "object": "response", "deleted": True}
        answer = await gateway.request("GET", path, authorization="Bearer sk-a")
        assert answer.status == 404

    keys = [ConfiguredKey(key=f"sk-{name}", name=name) for name in "ab"]
    serve(scenario, security=Security(enabled=True, api_keys=keys))


def test_storing_can_be_turned_off(serve):
    async def scenario(gateway: Gateway):
        answer = await post(gateway, PATH, {"input": "hi"})
        assert (answer.status, answer.json["store"]) == (200, False)
        answer = await post(gateway, PATH, {"input": "hi", "previous_response_id": "resp_1"})
        assert (answer.status, answer.error["param"]) == (400, "previous_response_id")
        answer = await gateway.request("GET", f"{PATH}/resp_1")
        assert answer.status == 404

    serve(scenario, responses=Responses(store=False))
