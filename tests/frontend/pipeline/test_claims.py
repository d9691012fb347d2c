"""Which of several engines a stream is taken up from."""

import asyncio
from types import SimpleNamespace

import msgspec
import pytest

from vgate.frontend.pipeline.taking_up import KeptRequest, claimed
from vgate.wire.kept import Claimed

REQUEST = msgspec.msgpack.encode(KeptRequest("s", "/v1/chat/completions", b"{}", b"0", 1))


def model_with(**engines: Claimed):
    async def claim(_name):
        return list(engines.items())

    return SimpleNamespace(engine=SimpleNamespace(claim=claim))


@pytest.mark.parametrize("old_first", [False, True])
def test_a_stream_that_went_on_elsewhere_is_not_taken_from_a_link_that_was_cut(old_first):
    # Nobody has counted what the old one generated after its link was cut.
    engines = {"old": Claimed(1, REQUEST, {0: -1, 1: 3}), "new": Claimed(1, REQUEST, {0: 7, 1: 5})}
    if not old_first:
        engines = dict(reversed(engines.items()))
    http = SimpleNamespace(admission=SimpleNamespace(scope="k"))
    found = asyncio.run(claimed(http, [model_with(**engines)], "s", 1.0))
    assert (found.holders, found.counted) == ({0: "new", 1: "new"}, 12)


def test_choices_are_taken_from_the_engines_that_have_them():
    engines = {"a": Claimed(1, REQUEST, {0: 4}), "b": Claimed(1, b"", {1: -1})}
    http = SimpleNamespace(admission=SimpleNamespace(scope="k"))
    found = asyncio.run(claimed(http, [model_with(**engines)], "s", 1.0))
    assert (found.holders, found.counted) == ({0: "a", 1: "b"}, 4)
