"""Messages survive the wire; anything else is a WireError and nothing worse."""

import contextlib
import sys

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from vgate.wire import codec, control, kv_blocks, messages, model_files
from vgate.wire.codec import WireError, encode, pack_token_ids, unpack_token_ids
from vgate.wire.messages import Generate, Hello
from vgate.wire.parameters import SamplingParams

# UTF-8 has no lone surrogates; everything that is decoded from the outside is free of them.
texts = st.text(st.characters(exclude_categories=["Cs"]))
int64s = st.integers(-(2**63), 2**63 - 1)
uint32s = st.integers(0, 2**32 - 1)
floats = st.floats(allow_nan=False)

sampling = st.builds(
    SamplingParams,
    temperature=st.none() | st.floats(0, 2),
    top_p=st.none() | st.floats(0, 1, exclude_min=True),
    presence_penalty=st.none() | st.floats(-2, 2),
    frequency_penalty=st.none() | st.floats(-2, 2),
    seed=st.none() | int64s,
    top_k=st.none() | st.integers(-1, 2**31 - 1),
    min_p=st.none() | st.floats(0, 1),
    repetition_penalty=st.none() | st.floats(0, 2, exclude_min=True),
    max_tokens=st.none() | st.integers(1, 2**31 - 1),
    min_tokens=st.none() | st.integers(0, 2**31 - 1),
    stop_token_ids=st.none() | st.lists(st.integers(0, 2**31 - 1), max_size=64),
    ignore_eos=st.none() | st.booleans(),
)
prompts = st.lists(uint32s, max_size=50).map(pack_token_ids)
to_engine = st.one_of(
    st.builds(Hello, int64s, texts),
    st.builds(
        Generate,
        int64s,
        prompts,
        sampling,
        texts,
        st.floats(0.001, 1e9),
        st.floats(0, 1e9),
    ),
    st.builds(messages.Abort, st.lists(int64s)),
    st.builds(messages.Goodbye),
    st.builds(messages.FetchFile, st.binary(), st.integers(0, 2**40)),
    st.builds(kv_blocks.WatchBlocks),
)
model_infos = st.builds(
    messages.ModelInfo,
    st.lists(texts),
    st.lists(st.builds(model_files.FileInfo, texts, st.binary(), int64s)),
    int64s,
    int64s,
    int64s,
    int64s,
    texts,
)
deltas = st.builds(
    messages.Delta,
    int64s,
    st.lists(uint32s),
    st.sampled_from([None, "stop", "length"]),
    st.integers(0, 2**31),
)
failures = st.builds(messages.Failure, int64s, texts, texts, st.none() | floats)
to_frontend = st.one_of(
    st.builds(messages.Welcome, int64s, model_infos),
    st.builds(messages.Refused, int64s, texts),
    st.builds(messages.Step, st.lists(int64s), st.lists(uint32s), st.lists(deltas)),
    st.builds(messages.Failures, st.lists(failures)),
    st.builds(messages.Status, int64s, int64s, floats),
    st.builds(messages.FileChunk, st.binary(), int64s, st.binary()),
    st.builds(kv_blocks.KvBlocks, int64s, int64s, st.binary(), st.binary(), st.booleans()),
)
to_launcher = st.one_of(
    st.builds(control.EnginePhase, int64s, texts),
    st.builds(control.EngineReady, int64s, texts),
    st.builds(control.EngineBeat, int64s),
    st.builds(control.EngineFailed, int64s, texts, st.booleans()),
    st.builds(control.FrontendBeat, int64s, st.none() | texts, int64s, st.booleans()),
    st.builds(control.Reload),
    st.builds(control.ModelOrder, int64s, texts, st.sampled_from(["load", "unload"])),
    st.builds(
        control.ModelDemand,
        int64s,
        st.dictionaries(texts, st.builds(control.Demand, int64s, int64s, floats, floats)),
    ),
)
launcher_to_frontend = st.one_of(
    st.builds(
        control.EngineState, st.sampled_from(["starting", "ready", "restarting"]), texts, floats
    ),
    st.builds(control.Drain, floats),
    st.builds(control.HandOver),
)

DIRECTIONS = {
    "to_engine": (codec.decode_to_engine, to_engine),
    "to_frontend": (codec.decode_to_frontend, to_frontend),
    "to_launcher": (codec.decode_to_launcher, to_launcher),
    "launcher_to_frontend": (codec.decode_launcher_to_frontend, launcher_to_frontend),
    "reloaded": (codec.decode_reloaded, st.builds(control.Reloaded, st.booleans(), texts)),
    "probed": (codec.decode_probed, st.builds(control.Probed, texts, texts)),
    "launcher_to_engine": (codec.decode_launcher_to_engine, st.builds(control.Drain, floats)),
}
directions = pytest.mark.parametrize(("decode", "made"), DIRECTIONS.values(), ids=DIRECTIONS)


@directions
@given(data=st.data())
def test_a_message_arrives_as_it_was_sent(decode, made, data):
    message = data.draw(made)
    assert decode(encode(message)) == message


@directions
@given(payload=st.binary(max_size=200))
@example(payload=b"")
@example(payload=b"\xc1")
@example(payload=b"\xdd\xff\xff\xff\xff")
def test_random_bytes_are_a_wire_error(decode, made, payload):
    with contextlib.suppress(WireError):
        decode(payload)


@directions
@settings(max_examples=300)
@given(data=st.data())
def test_a_damaged_message_is_a_wire_error_or_another_message(decode, made, data):
    payload = bytearray(encode(data.draw(made)))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(payload)))
    damaged = bytes(payload[:cut] if data.draw(st.booleans()) else payload)
    with contextlib.suppress(WireError):
        decode(damaged)


BAD_TEXT = msgspec.msgpack.encode(["Hello", 1, "abc"]).replace(b"abc", b"a\xffc")
BAD_TAG = b"\x93\xa5H\xffllo\x01\xa1a"
TOO_DEEP = b"\x94\xa5Hello\x01\xa1a" + b"\x91" * 100_000 + b"\x90"


@pytest.mark.parametrize("payload", [BAD_TEXT, BAD_TAG, TOO_DEEP], ids=["text", "tag", "deep"])
def test_a_frontend_cannot_raise_anything_else_in_the_engine(payload):
    with pytest.raises(WireError):
        codec.decode_to_engine(payload)


@pytest.mark.parametrize(
    "payload",
    [b"\x82\xa4type\xa5Drain\xa1x" + b"\x91" * 100_000 + b"\x90", b"\x81\xa4type\xa1\xff"],
    ids=["deep", "tag"],
)
def test_nor_can_a_control_message(payload):
    for decode in (
        codec.decode_launcher_to_frontend,
        codec.decode_launcher_to_engine,
        codec.decode_to_launcher,
    ):
        with pytest.raises(WireError):
            decode(payload)


@pytest.mark.parametrize(
    ("decode", "message"),
    [
        (codec.decode_to_engine, messages.Status(0, 0, 0.0)),
        (codec.decode_to_frontend, messages.Goodbye()),
        (codec.decode_to_launcher, control.Drain(1.0)),
        (codec.decode_launcher_to_frontend, control.EngineReady(1, "")),
        (codec.decode_launcher_to_engine, control.EngineState("ready", "", 0.0)),
    ],
)
def test_a_message_of_the_other_direction_is_refused(decode, message):
    with pytest.raises(WireError):
        decode(encode(message))


@pytest.mark.parametrize(
    "damage",
    [
        {"weight": 0.0},
        {"weight": -1.0},
        {"weight": float("nan")},
        {"queue_timeout_s": float("nan")},
        {"queue_timeout_s": -1.0},
        {"sampling": SamplingParams(top_p=0.0)},
        {"sampling": SamplingParams(max_tokens=0)},
        {"sampling": SamplingParams(temperature=-1.0)},
        {"prompt": "text"},
        {"id": "1"},
        {"tenant": 1},
    ],
    ids=str,
)
def test_values_out_of_their_bounds_are_refused(damage):
    fields = {"id": 1, "prompt": b"", "sampling": SamplingParams(), **damage}
    with pytest.raises(WireError):
        codec.decode_to_engine(encode(Generate(**fields)))


def test_every_version_can_read_the_protocol_of_a_hello():
    # Fields may be added behind the first two; an older engine must still be able to refuse.
    newer = msgspec.msgpack.encode(["Hello", 99, "name", {"more": [1]}, None])
    assert codec.decode_to_engine(newer) == Hello(99, "name")


@given(st.lists(uint32s))
def test_token_ids_survive_packing(ids):
    packed = pack_token_ids(ids)
    assert len(packed) == 4 * len(ids)
    assert unpack_token_ids(packed) == ids


def test_packing_is_little_endian():
    assert pack_token_ids([1, 0x01020304]) == b"\x01\0\0\0\x04\x03\x02\x01"


def test_packing_is_the_same_on_a_big_endian_machine(monkeypatch):
    # The array is native there: what is native here comes out swapped.
    monkeypatch.setattr(sys, "byteorder", "big")
    assert pack_token_ids([1]) == b"\0\0\0\x01"
    assert unpack_token_ids(b"\0\0\0\x01") == [1]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7])
def test_a_broken_token_id_is_a_wire_error(size):
    with pytest.raises(WireError):
        unpack_token_ids(b"\0" * size)


@pytest.mark.parametrize("ids", [[-1], [2**32]])
def test_what_is_no_token_id_is_not_packed(ids):
    with pytest.raises(OverflowError):
        pack_token_ids(ids)
