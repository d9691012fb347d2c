"""Stored responses: who finds them, how many stay, and what they outlive."""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.frontend.gateway import Gateway, post, until
from vgate.config.schema import Responses, Security
from vgate.frontend.cache import StoredResponse
from vgate.frontend.cache import responses as module
from vgate.frontend.cache.responses import SqliteResponses
from vgate.frontend.observe import metrics
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


def response(name: str, size: int = 0, items: list[str] | None = None) -> StoredResponse:
    return StoredResponse(b"[]" + b" " * size, name.encode(), items or [])


def put(store: SqliteResponses, key: str, name: str, stored: StoredResponse) -> bool:
    return store.put(key, name, len(stored.conversation), lambda: stored)


async def kept(store: SqliteResponses, key: str, *names: str) -> list[str]:
    return [name for name in names if await store.get(key, name)]


def test_a_key_finds_its_own(run):
    async def scenario(open_store):
        store = open_store()
        assert put(store, "a", "r1", response("r1", items=["m1"]))
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


@pytest.mark.parametrize(("patience_s", "found"), [(5, True), (-1, False)])
def test_a_new_file_that_another_worker_prepares_is_waited_for(run, monkeypatch, patience_s, found):
    class Connection(sqlite3.Connection):
        attempts = 0

        def executescript(self, script):
            self.attempts += 1
            if self.attempts < 3:
                raise sqlite3.OperationalError("database is locked")
            return super().executescript(script)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **b: connect(*a, factory=Connection, **b))
    monkeypatch.setattr(module, "_LOCK_TIMEOUT_S", patience_s)

    async def scenario(open_store):
        store = open_store()
        put(store, "a", "r1", response("r1"))
        assert (await store.get("a", "r1") is not None) is found

    run(scenario)


def test_other_workers_and_later_instances_find_it(run):
    async def scenario(open_store):
        one, other = open_store(), open_store()
        put(one, "a", "r1", response("r1"))
        assert await other.get("a", "r1") == response("r1")
        assert await open_store().get("a", "r1") == response("r1")

    run(scenario)


def test_the_oldest_of_a_key_go_first(run):
    async def scenario(open_store):
        store = open_store()
        put(store, "b", "other", response("x"))
        for number in range(5):
            put(store, "a", f"r{number}", response("x"))
        assert await kept(store, "a", *(f"r{number}" for number in range(5))) == ["r3", "r4"]
        assert await kept(store, "b", "other") == ["other"]

    run(scenario, max_entries_per_key=2)


def test_all_of_them_are_bounded_in_bytes(run):
    async def scenario(open_store):
        store = open_store()
        for number in range(6):
            put(store, f"key{number}", f"r{number}", response("x", size=100))
        left = [n for n in range(6) if await kept(store, f"key{n}", f"r{n}")]
        assert left == [4, 5]
        put(store, "key9", "huge", response("x", size=1000))
        assert await kept(store, "key9", "huge") == []
        assert await kept(store, "key5", "r5") == ["r5"]

    run(scenario, max_bytes=250)


def test_the_key_with_the_most_bytes_loses_its_oldest(run):
    async def scenario(open_store):
        store = open_store()
        put(store, "small", "first", response("x", size=50))
        for number in range(6):
            put(store, "large", f"r{number}", response("x", size=100))
        put(store, "small", "last", response("x", size=50))
        assert await kept(store, "small", "first", "last") == ["first", "last"]
        assert await kept(store, "large", *(f"r{number}" for number in range(6))) == ["r4", "r5"]

    run(scenario, max_bytes=330)


def test_what_keys_have_is_known_without_adding_it_up(run, tmp_path):
    async def scenario(open_store):
        store = open_store()
        for number in range(9):
            put(store, f"key{number % 2}", f"r{number}", response("x", size=100 + number))
        assert await store.delete("key0", "r8")
        assert await kept(store, "key0", "r6")

    run(scenario, max_entries_per_key=3, max_bytes=600)
    with closing(sqlite3.connect(tmp_path / "responses.db")) as connection:
        counted = connection.execute("SELECT * FROM used ORDER BY key").fetchall()
        query = "SELECT key, COUNT(*), SUM(size) FROM responses GROUP BY key"
        assert counted == connection.execute(query).fetchall()
        assert len(counted) == 2


def not_stored() -> float:
    (metric,) = metrics.NOT_STORED.collect()
    return next(sample.value for sample in metric.samples if sample.name.endswith("_total"))


def test_a_slow_disk_lets_only_so_many_wait(run, monkeypatch, caplog):
    monkeypatch.setattr(module, "_MAX_WAITING", 3)
    monkeypatch.setattr(module, "_MAX_WAITING_BYTES", 1000)

    async def scenario(open_store):
        store, dropped = open_store(), not_stored()
        disk = threading.Event()

        def slow() -> StoredResponse:
            assert disk.wait(20)
            return response("slow")

        assert store.put("a", "r0", 0, slow)
        assert not put(store, "a", "r1", response("x", size=2000))
        assert [put(store, "a", f"r{n}", response("x")) for n in (2, 3, 4, 5)] == [
            *[True] * 2,
            *[False] * 2,
        ]
        disk.set()
        assert await kept(store, "a", *(f"r{n}" for n in range(6))) == ["r0", "r2", "r3"]
        assert put(store, "a", "r6", response("x", size=900))
        assert await store.get("a", "r6")
        assert not_stored() - dropped == 3

    run(scenario)
    assert [r.message for r in caplog.records if "can't be stored" in r.message] == [
        "responses can't be stored"
    ]


@pytest.mark.parametrize("state", ["full", "not writable"])
def test_a_disk_that_takes_nothing_fails_no_request(serve, state, monkeypatch, tmp_path):
    opens = SqliteResponses._open

    def full(store: SqliteResponses) -> sqlite3.Connection:
        connection = opens(store)
        connection.execute("PRAGMA max_page_count = 1")
        return connection

    if state == "full":
        monkeypatch.setattr(SqliteResponses, "_open", full)

    async def scenario(gateway: Gateway):
        dropped = not_stored()

        def all_dropped(count: int) -> Callable[[], bool]:
            return lambda: not_stored() - dropped == count

        # More than is free in the file's pages.
        body = {"input": "hi", "metadata": {str(n): "x" * 512 for n in range(16)}}
        first = await post(gateway, PATH, body)
        assert first.status == 200
        await until(all_dropped(1), "the write failed")
        for stream in (False, True):
            answer = await post(gateway, PATH, {**body, "stream": stream})
            assert answer.status == 200
            assert b'"store":false' in answer.body.rpartition(b'"status":"completed"')[2]
        await until(all_dropped(3), "all writes failed")
        answer = await post(gateway, PATH, {"input": "x", "previous_response_id": first.json["id"]})
        assert (answer.status, answer.error["param"]) == (400, "previous_response_id")

    where = tmp_path / "a-file" / "responses.db"
    where.parent.touch()
    serve(scenario, responses=Responses(file=str(where) if state == "not writable" else None))


def test_they_end_by_age(run):
    async def scenario(open_store):
        store = open_store()
        put(store, "a", "r1", response("r1"))
        assert await store.get("a", "r1")
        await asyncio.sleep(0.5)
        assert await store.get("a", "r1") is None

    run(scenario, ttl_s=0.4)


def test_a_broken_file_harms_no_request(run, tmp_path):
    (tmp_path / "responses.db").write_bytes(b"no database" * 1000)

    async def scenario(open_store):
        store = open_store()
        put(store, "a", "r1", response("r1"))
        assert await store.get("a", "r1") is None
        assert not await store.delete("a", "r1")

    run(scenario)


def test_who_only_reads_waits_for_no_writer_and_no_room(run, tmp_path):
    async def scenario(open_store):
        first = open_store()
        put(first, "a", "r1", response("r1"))
        assert await first.get("a", "r1")
        with closing(sqlite3.connect(tmp_path / "responses.db")) as writer:
            writer.execute("BEGIN IMMEDIATE")
            found = await asyncio.wait_for(open_store().get("a", "r1"), 5)
            assert found == response("r1")

    run(scenario)


def test_a_file_of_a_later_version_is_left_alone(run, tmp_path, caplog):
    path = tmp_path / "responses.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 9")
    before = path.read_bytes()

    async def scenario(open_store):
        assert await open_store().get("a", "r1") is None

    run(scenario)
    assert "of a later version of V-Gate: move it away" in str(vars(caplog.records[0]))
    assert path.read_bytes() == before


def test_nothing_but_the_owner_reads_the_file(run, tmp_path):
    path = tmp_path / "responses.db"

    async def scenario(open_store):
        store = open_store()
        assert put(store, "a", "r1", response("r1"))
        assert await store.get("a", "r1")
        # SQLite's files beside it have what was written last.
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
        names = ["responses.db", "responses.db-shm", "responses.db-wal"]
        assert modes == dict.fromkeys(names, 0o600)

    before = os.umask(0o022)
    try:
        path.touch()  # as another program has made it
        run(scenario)
    finally:
        os.umask(before)
    with closing(sqlite3.connect(path)) as connection:
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


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [
        ("GET", "resp_1", "there is no response 'resp_1'"),
        ("GET", "resp_1/input_items", "there is no response 'resp_1'"),
        ("DELETE", "resp_1/input_items", f"there is no DELETE {PATH}/resp_1/input_items"),
        ("GET", "resp_1/x", f"there is no GET {PATH}/resp_1/x"),
        ("POST", "compact", f"there is no POST {PATH}/compact"),
        ("POST", "resp_1/cancel", f"there is no POST {PATH}/resp_1/cancel; no response runs"),
    ],
)
def test_what_is_missing_is_named(serve, method, path, said):
    async def scenario(gateway: Gateway):
        answer = await gateway.request(method, f"{PATH}/{path}", b"{}" if method == "POST" else b"")
        assert answer.status == 404
        assert answer.error["message"].startswith(said)

    serve(scenario)


def test_storing_can_be_turned_off(serve):
    async def scenario(gateway: Gateway):
        answer = await post(gateway, PATH, {"input": "hi"})
        assert (answer.status, answer.json["store"]) == (200, False)
        answer = await post(gateway, PATH, {"input": "hi", "previous_response_id": "resp_1"})
        assert (answer.status, answer.error["param"]) == (400, "previous_response_id")
        answer = await gateway.request("GET", f"{PATH}/resp_1")
        assert answer.status == 404

    serve(scenario, responses=Responses(store=False))


def test_an_error_counts_only_the_items_that_were_sent(serve):
    async def scenario(gateway: Gateway):
        first = (await post(gateway, PATH, {"input": "hi"})).json
        for items, param in (
            ([{"role": "user", "content": 5}], "input[0].content"),
            ([{"role": "user", "content": "x"}, {"type": 7}], "input[1].type"),
        ):
            fields = {"input": items, "previous_response_id": first["id"]}
            answer = await post(gateway, PATH, fields)
            assert (answer.status, answer.error["param"]) == (400, param)

    serve(scenario)


def test_input_items(serve):
    async def scenario(gateway: Gateway):
        async def listed(query: str = "") -> Any:
            answer = await gateway.request("GET", f"{PATH}/{last['id']}/input_items{query}")
            return answer.json if answer.status == 200 else answer.error["param"]

        first = (await post(gateway, PATH, {"input": "hi"})).json
        call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"}
        result = {"type": "function_call_output", "call_id": "c", "output": "1", "id": "mine"}
        said = {"role": "assistant", "content": "So."}
        sent = {"input": [said, call, result], "previous_response_id": first["id"]}
        last = (await post(gateway, PATH, sent)).json

        everything = await listed("?order=asc")
        data, ids = everything["data"], [item["id"] for item in everything["data"]]
        user, answer, *new = data
        assert user["content"] == [{"type": "input_text", "text": "hi"}]
        assert (user["type"], user["role"], user["status"]) == ("message", "user", "completed")
        assert answer == first["output"][0]
        assert new[0]["content"] == [{"type": "output_text", "text": "So.", "annotations": []}]
        assert new[1:] == [
            {**call, "status": "completed", "id": ids[3]},
            {**result, "status": "completed"},
        ]
        assert [i.partition("_")[0] for i in ids] == ["msg", "msg", "msg", "fc", "mine"]
        assert everything["object"] == "list"
        assert (everything["first_id"], everything["last_id"]) == (ids[0], ids[-1])
        assert everything["has_more"] is False

        assert [item["id"] for item in (await listed())["data"]] == ids[::-1]
        page = await listed("?limit=2&include=message.input_image.image_url")
        assert ([item["id"] for item in page["data"]], page["has_more"]) == (ids[:2:-1], True)
        rest = await listed(f"?after={ids[3]}")
        assert ([item["id"] for item in rest["data"]], rest["has_more"]) == (ids[2::-1], False)
        empty = await listed(f"?after={ids[0]}")
        assert (empty["data"], empty["first_id"], empty["has_more"]) == ([], None, False)
        wrong = ("limit=0", "limit=101", "limit=x", "limit=%C2%B2", "order=up", "after=other")
        for query in (*wrong, "limit=" + "9" * 4000):
            assert await listed(f"?{query}") == query.partition("=")[0]
        # An item that was told stands for itself.
        reference = {"type": "item_reference", "id": ids[0]}
        assert (await post(gateway, PATH, {"input": [reference]})).status == 200
        gone = await gateway.request("DELETE", f"{PATH}/{last['id']}/input_items")
        assert gone.status == 404
        last = {"id": "resp_other"}
        assert await listed() == "response_id"

    serve(scenario)


def test_references_to_a_conversation_read_it_once(serve, monkeypatch):
    read: list[str] = []
    get_item = SqliteResponses.get_item

    async def counted(store: SqliteResponses, key: str, name: str) -> StoredResponse | None:
        read.append(name)
        return await get_item(store, key, name)

    monkeypatch.setattr(SqliteResponses, "get_item", counted)

    async def scenario(gateway: Gateway):
        answer, said = None, []
        for text in ("one", "two", "three"):
            answer = (
                await post(gateway, PATH, {"input": text, "previous_response_id": answer})
            ).json["id"]
            stored = await gateway.request("GET", f"{PATH}/{answer}")
            said.append(stored.json["output"][0]["id"])
        references = [{"type": "item_reference", "id": name} for name in said * 50]
        asked = {"input": [*references, {"role": "user", "content": "all"}]}
        assert (await post(gateway, PATH, asked)).status == 200
        assert read == said[-1:]
        # Those of the response that it continues aren't read again.
        asked["previous_response_id"] = answer
        assert (await post(gateway, PATH, asked)).status == 200
        assert read == said[-1:]
        asked["input"] = [{"type": "item_reference", "id": ["x"]}]
        refused = await post(gateway, PATH, asked)
        assert (refused.status, refused.error["param"]) == (400, "input[0].id")

    serve(scenario)
