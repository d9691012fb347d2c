"""Clients that leave: each watch of one request hears of it."""

import asyncio
from types import SimpleNamespace

from tests.frontend.gateway import until
from vgate.frontend.http import HttpRequest
from vgate.frontend.http.waits import DisconnectWatch


class Left:
    """What granian returns if an earlier watch has heard of it: it can only be awaited."""

    def __await__(self):
        yield


class Protocol:
    """A client that has left before this watch, or is still there."""

    def __init__(self, *, left):
        self.left = left
        self.watched = False

    def client_disconnect(self):
        self.watched = True
        return Left() if self.left else asyncio.get_running_loop().create_future()


def request(protocol, watch):
    scope = SimpleNamespace(headers={}, method="POST", path="/", query_string="")
    waits = SimpleNamespace(disconnects=watch)
    return HttpRequest(scope, protocol, waits, asyncio.current_task())


def test_a_client_that_left_before_this_watch_is_noticed():
    async def scenario():
        watch = DisconnectWatch(asyncio.get_running_loop())
        gone = [Protocol(left=True) for _ in range(3)]
        there = [Protocol(left=False) for _ in range(3)]
        left = []
        requests = [request(protocol, watch) for protocol in (*gone, *there)]
        for number, one in enumerate(requests):
            one.on_disconnect(lambda number=number: left.append(number))
        await until(lambda: len(left) == len(gone), "all that left are noticed")
        # Whatever the order in which they are watched.
        assert all(protocol.watched for protocol in there)
        assert sorted(left) == [0, 1, 2]
        for one in requests:
            one.release()

    asyncio.run(scenario())
