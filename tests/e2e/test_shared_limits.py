"""Two gateways with one server: limits are exact over both, and survive what happens to either."""

import asyncio
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest

from tests.e2e.instance import Instance, wait_until
from tests.e2e.traffic import CHAT, MODEL, Request, chat, endless
from tests.state_server import StateServer, find_server

pytestmark = pytest.mark.skipif(
    not (find_server() and find_spec("redis")), reason="needs redis-server and the package redis"
)

GATEWAYS = int(os.environ.get("VGATE_TEST_SHARED_GATEWAYS", "2"))
REQUESTS = int(os.environ.get("VGATE_TEST_SHARED_REQUESTS", "2000"))
LIMIT = 500
AT_ONCE = 100
LEASE_S = 2
KEYS = [
    {"name": "crowd", "key": "sk-crowd", "rate_limit": LIMIT},
    {"name": "lossy", "key": "sk-lossy", "rate_limit": LIMIT},
    {"name": "two", "key": "sk-two", "rate_limit": 1000, "concurrent": 2},
    {"name": "cached", "key": "sk-cached", "rate_limit": 1000},
]


@pytest.fixture(scope="module")
def server() -> Iterator[StateServer]:
    with StateServer() as started:
        yield started


def gateway(run_dirs: Path, server: StateServer, name: str) -> Instance:
    return Instance(
        run_dirs,
        dry_run=True,
        server__workers=2,
        server__state_dir=str(run_dirs / name),
        cache__enabled=True,
        security__enabled=True,
        security__api_keys=KEYS,
        security__rate_limiting__window_seconds=120,
        state__url=server.url,
        state__on_failure="refuse",
        state__lease_s=LEASE_S,
        # Of machines that do much else beside.
        state__timeout_ms=5000,
        state__cache_timeout_ms=500,
        dry_run__step_ms=2,
    )


@pytest.fixture(scope="module")
def gateways(run_dirs: Path, server: StateServer) -> Iterator[list[Instance]]:
    with ExitStack() as stack:
        names = (f"state-{number}" for number in range(GATEWAYS))
        made = [stack.enter_context(gateway(run_dirs, server, name)) for name in names]
        wait_until_quiet(made)  # the server was started just now
        yield made


def headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer sk-{key}"}


def ask_all(
    gateways: list[Instance],
    key: str,
    requests: int,
    at: Mapping[int, Callable[[], object]] | None = None,
) -> Counter[int]:
    """Send requests that generate nothing to all gateways at once; return the statuses.

    They are sent without a client's library, which takes longer than the gateways. `at` has what
    happens once so many were answered, while the others go on.
    """
    seen: Counter[int] = Counter()
    lines = ["GET /version HTTP/1.1", "Host: 127.0.0.1", f"Authorization: Bearer sk-{key}"]
    request = ("\r\n".join(lines) + "\r\n\r\n").encode()

    async def one_after_the_other(port: int, count: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(count):
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            seen[int(head.split(b" ", 2)[1])] += 1
            if happens := (at or {}).get(seen.total()):
                await asyncio.to_thread(happens)
            await reader.readexactly(int(head.partition(b"content-length: ")[2].split(b"\r")[0]))
        writer.close()

    async def main() -> None:
        shares = [requests // AT_ONCE + (n < requests % AT_ONCE) for n in range(AT_ONCE)]
        ports = [gateways[n % len(gateways)].port for n in range(AT_ONCE)]
        await asyncio.gather(*map(one_after_the_other, ports, shares))

    asyncio.run(main())
    return seen


def test_exactly_the_limit_is_admitted_over_all_gateways(gateways: list[Instance]):
    assert ask_all(gateways, "crowd", REQUESTS) == {200: LIMIT, 429: REQUESTS - LIMIT}


def test_an_answer_of_one_gateway_is_found_in_the_cache_of_another(
    gateways: list[Instance], server: StateServer
):
    import redis

    seen = []
    client = redis.Redis(port=server.port)
    body = chat("the same", max_tokens=5)
    for each in gateways:
        answer = httpx.post(each.url + CHAT, json=body, headers=headers("cached"), timeout=60)
        assert answer.status_code == 200
        seen.append((answer.headers["x-vgate-cache"], answer.json()["choices"]))
        wait_until(lambda: client.keys("vgate:answer-*"), 30, "it is stored")
    assert [cache for cache, _ in seen] == ["miss"] + ["hit"] * (GATEWAYS - 1)
    assert all(choices == seen[0][1] for _, choices in seen)
    client.close()


def test_a_server_that_loses_its_data_lets_nobody_in_twice(
    gateways: list[Instance], server: StateServer
):
    in_the_middle = {300: server.kill, 600: server.start}
    seen = ask_all(gateways, "lossy", REQUESTS, in_the_middle)
    wait_until_quiet(gateways)
    seen += ask_all(gateways, "lossy", REQUESTS)
    assert seen.total() == 2 * REQUESTS
    assert 300 <= seen[200] <= LIMIT
    assert seen[503] >= REQUESTS


def wait_until_quiet(gateways: list[Instance]) -> None:
    """Wait until every worker uses the server, of which one answers."""

    def all_quiet() -> bool:
        return not any(warnings_of(each) for each in gateways for _ in range(4))

    wait_until(all_quiet, 60, "the server is used")


def warnings_of(instance: Instance) -> list[str]:
    found: list[str] = httpx.get(f"{instance.url}/ready", timeout=30).json()["warnings"]
    return found


def test_what_a_killed_gateway_ran_is_free_after_its_lease(
    gateways: list[Instance], run_dirs: Path, server: StateServer
):
    with gateway(run_dirs, server, "state-dies") as dies:
        for _ in range(2):
            Request(dies.url, endless(stream=True), "sk-two").wait_for_text()
        other = gateways[0].url + CHAT
        body = {"model": MODEL, "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}

        def status() -> int:
            return httpx.post(other, json=body, headers=headers("two"), timeout=60).status_code

        assert status() == 429
        for process in dies.processes():
            process.kill()
        wait_until(lambda: status() == 200, 30, "the lease ends")


def test_no_problem_was_logged_but_the_servers(gateways: list[Instance]):
    for each in gateways:
        lines = [line for line in each.logs().splitlines() if " ERROR " in line]
        assert all("state.url" in line for line in lines)
        assert 1 <= len(lines) <= 2 * 3  # of two workers
