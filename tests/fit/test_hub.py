"""Reading a model from the Hub by ranges, from its cache, and from a directory."""

import contextlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.fit.checkpoints import checkpoint, write_checkpoint
from tests.fit.families import FAMILIES
from tests.hub.settings import forget_settings
from vgate.fit import Checkpoint, FitError, Settings, estimate, read_checkpoint
from vgate.fit.checkpoint import INDEX
from vgate.fit.gpu import Card
from vgate.fit.hub import from_hub

NAME = "acme/tiny"
TINY = FAMILIES["llama"]
CUT = b"HTTP/1.0 200 OK\r\nContent-Length: 99\r\n\r\n{}"


def test_a_size_beyond_all_numbers_is_not_understood():
    config = {**TINY, "intermediate_size": "9" * 400}
    with pytest.raises(FitError, match="is not understood"):
        estimate(Checkpoint(NAME, config, {}), Card(8 << 30, 0.9), Settings())


def test_a_mirror_without_a_scheme(monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "mirror.example")
    with pytest.raises(FitError, match=r"cannot ask mirror\.example about acme/tiny: unknown url"):
        read_checkpoint(NAME, None, from_hub)


@pytest.mark.parametrize("name", [f"acme/{'x' * 300}", "acme/a\0b"])
def test_what_can_be_no_path_is_no_directory(name):
    def fetch(_name):
        raise FitError("it would be fetched")

    with pytest.raises(FitError, match="it would be fetched"):
        read_checkpoint(name, None, fetch)


class Hub(ThreadingHTTPServer):
    """The part of the Hub's HTTP interface that is used, over a directory.

    Attributes:
        sent: Bytes of the weights that were sent.
        status: An error to answer instead, if not 0.
        ranges: Whether parts are sent where they are asked for.
        redirects: Whether weights are elsewhere, as the Hub's own are.
        tokens: The authorization headers that came.
    """

    def __init__(self, directory):
        super().__init__(("127.0.0.1", 0), Handler)
        self.directory = directory
        self.sent = self.status = 0
        self.ranges = True
        self.redirects = False
        self.tokens = []
        self.paths = []


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        hub = self.server
        hub.tokens.append(self.headers.get("Authorization"))
        hub.paths.append(self.path)
        match = re.fullmatch(rf"/(?:{NAME}/resolve|storage)/([^/]+)/(.+)", self.path)
        if hub.redirects and match and self.path.startswith(f"/{NAME}"):
            self.send_response(302)
            self.send_header("Location", f"/storage/signed/{match[2]}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        path = hub.directory / match[2] if match else hub.directory / "absent"
        if hub.status or not path.is_file():
            self.send_error(hub.status or 404)
            return
        content = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if wanted and hub.ranges:
            content = content[int(wanted[1]) : int(wanted[2]) + 1]
            self.send_response(206)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if path.suffix == ".safetensors":
            hub.sent += len(content)
        with contextlib.suppress(ConnectionError):
            self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture(autouse=True)
def alone(tmp_path, monkeypatch):
    """Nothing of the machine's own settings or cache of the Hub."""
    forget_settings(monkeypatch, tmp_path / "home")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    server = Hub(write_checkpoint(tmp_path / "model", TINY, empty=True))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def split(directory, files):
    """Make several files of a model's one, each padded as if it held gigabytes of weights."""
    content = (directory / "model.safetensors").read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    header.pop("__metadata__")
    names = sorted(header)
    places = {}
    for index in range(files):
        part = names[index::files]
        text = json.dumps({name: header[name] for name in part}).encode()
        file = f"model-{index + 1:05}-of-{files:05}.safetensors"
        (directory / file).write_bytes(len(text).to_bytes(8, "little") + text + bytes(3_000_000))
        places |= dict.fromkeys(part, file)
    (directory / INDEX).write_text(json.dumps({"weight_map": places}))
    (directory / "model.safetensors").unlink()


def test_a_directory_is_read(tmp_path):
    directory = write_checkpoint(tmp_path / "model", TINY, empty=True)
    found = read_checkpoint(str(directory), None, from_hub)
    assert found.tensors == checkpoint(TINY).tensors
    assert found.config == TINY


def test_only_headers_are_fetched(hub):
    split(hub.directory, 3)
    found = read_checkpoint(NAME, None, from_hub)
    assert found.tensors == checkpoint(TINY).tensors
    assert hub.sent < 3 * 300_000  # of 9 MB
    assert hub.tokens == [None] * len(hub.tokens)


def test_a_long_header_is_fetched_in_two_parts(hub):
    config = {**TINY, "num_hidden_layers": 500}
    write_checkpoint(hub.directory, config, empty=True)
    found = read_checkpoint(NAME, None, from_hub)
    assert len(found.tensors) > 4000
    assert found.tensors == checkpoint(config).tensors


def test_a_mirror_without_ranges_serves(hub):
    hub.ranges = False
    config = {**TINY, "num_hidden_layers": 500}
    write_checkpoint(hub.directory, config, empty=True)
    assert read_checkpoint(NAME, None, from_hub).tensors == checkpoint(config).tensors


def test_a_revision_and_the_token_are_sent(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    read_checkpoint(NAME, "refs/pr/1", lambda name: from_hub(name, "refs/pr/1"))
    assert set(hub.tokens) == {"Bearer hf_secret"}
    assert all("/resolve/refs%2Fpr%2F1/" in path for path in hub.paths)


def test_the_storage_gets_the_range_and_no_token(hub, monkeypatch):
    hub.redirects = True
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    split(hub.directory, 2)
    assert read_checkpoint(NAME, None, from_hub).tensors == checkpoint(TINY).tensors
    assert hub.sent < 2 * 300_000
    asked = dict(zip(hub.paths, hub.tokens, strict=True))
    assert {asked[path] for path in asked if path.startswith("/storage/")} == {None}
    assert {asked[path] for path in asked if path.startswith("/acme/")} == {"Bearer hf_secret"}


def test_the_token_of_a_login_is_sent(hub, tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text("hf_file\n")
    read_checkpoint(NAME, None, from_hub)
    assert set(hub.tokens) == {"Bearer hf_file"}


@pytest.mark.parametrize(
    ("status", "said"),
    [
        (401, "accept the licence at http://127.0.0.1:.*/acme/tiny and set HF_TOKEN"),
        (403, "set HF_TOKEN"),
        (404, "has no model acme/tiny with a config.json: check the name"),
        (503, "answered 503 for acme/tiny: try again later"),
    ],
)
def test_a_refusal_is_told_in_words(hub, status, said):
    hub.status = status
    with pytest.raises(FitError, match=said):
        read_checkpoint(NAME, None, from_hub)


def test_a_model_without_safetensors_files_is_told(hub):
    (hub.directory / "model.safetensors").unlink()
    with pytest.raises(FitError, match=r"acme/tiny lacks model.safetensors: only models with"):
        read_checkpoint(NAME, None, from_hub)


def test_a_damaged_file_is_told(hub):
    (hub.directory / "model.safetensors").write_bytes(b"version https://git-lfs")
    with pytest.raises(FitError, match="is damaged or no safetensors file"):
        read_checkpoint(NAME, None, from_hub)


def _file(header, length=None):
    return (len(header) if length is None else length).to_bytes(8, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        _file(b"{}", 2**64 - 1),
        _file(b"{}", 3),
        _file(b'{"a":{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}}"),
        _file(b'{"a":{"dtype":"F32","shape":[-1,4]}}'),
        _file(b'{"a":{"dtype":"F32","shape":[4611686018427387904]}}'),
        _file(b'{"a":{"dtype":"F32","shape":[' + b"9," * 99 + b"9]}}"),
    ],
)
def test_a_header_that_is_none_is_told(hub, content):
    (hub.directory / "model.safetensors").write_bytes(content)
    with pytest.raises(FitError, match=r"model.safetensors of .* is damaged or no safetensors"):
        read_checkpoint(str(hub.directory), None, from_hub)
    with pytest.raises(FitError, match=r"model.safetensors of .* is damaged or no safetensors"):
        read_checkpoint(NAME, None, from_hub)


@pytest.mark.parametrize(
    "file",
    [
        *(5, None, {}, "", "a", "a\0.safetensors", "a\r\n.safetensors", "/a.safetensors"),
        *("../a.safetensors", "b/../a.safetensors", "b\\..\\a.safetensors", "\ud800.safetensors"),
    ],
)
def test_only_files_of_the_model_are_asked_for(hub, file):
    (hub.directory / INDEX).write_text(
        json.dumps({"weight_map": {"a": file, "b": "c.safetensors"}})
    )
    for name in (str(hub.directory), NAME):
        with pytest.raises(FitError, match=r"index.json of .* names no file of weights"):
            read_checkpoint(name, None, from_hub)
    assert len(hub.paths) == 2


def test_names_of_files_are_quoted(hub):
    (hub.directory / "model.safetensors").rename(hub.directory / "a b?#%é.safetensors")
    (hub.directory / INDEX).write_text(json.dumps({"weight_map": {"a": "a b?#%é.safetensors"}}))
    assert read_checkpoint(str(hub.directory), None, from_hub).config == TINY
    with pytest.raises(FitError, match="lacks"):
        read_checkpoint(NAME, None, from_hub)
    assert hub.paths[-1].endswith("/a%20b%3F%23%25%C3%A9.safetensors")


def test_an_answer_that_is_cut_is_told(hub, monkeypatch):
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.wfile.write(CUT))
    with pytest.raises(FitError, match="or set HF_ENDPOINT to a mirror"):
        read_checkpoint(NAME, None, from_hub)
    monkeypatch.setattr(Handler, "do_GET", lambda self: self.wfile.write(b"SSH-2.0-x\r\n"))
    with pytest.raises(FitError, match="or set HF_ENDPOINT to a mirror"):
        read_checkpoint(NAME, None, from_hub)


@pytest.mark.parametrize(
    "content", ["[]", "{", '"x"', '{"a":' + "[" * 100_000 + "]" * 100_000 + "}"]
)
def test_a_damaged_configuration_is_told(hub, content):
    (hub.directory / "config.json").write_text(content)
    with pytest.raises(FitError, match=r"cannot read config.json of acme/tiny"):
        read_checkpoint(NAME, None, from_hub)


def test_no_file_is_read_without_end(hub, monkeypatch):
    monkeypatch.setattr("vgate.fit.checkpoint._MOST_CONFIG_BYTES", 10_000)
    assert read_checkpoint(NAME, None, from_hub).config == TINY
    (hub.directory / "config.json").write_text(json.dumps(TINY) + " " * 20_000)
    for name in (str(hub.directory), NAME):
        with pytest.raises(FitError, match=r"config.json of .* has more than 0.01 MB, which no"):
            read_checkpoint(name, None, from_hub)


def test_a_model_has_no_more_files_and_headers_than_any_has(hub, monkeypatch):
    split(hub.directory, 3)
    size = sum(path.stat().st_size - 3_000_000 for path in hub.directory.glob("model-*"))
    monkeypatch.setattr("vgate.fit.checkpoint.MOST_BYTES", size)
    assert read_checkpoint(NAME, None, from_hub).config == TINY
    monkeypatch.setattr("vgate.fit.checkpoint.MOST_BYTES", size - 50)
    for name in (str(hub.directory), NAME):
        with pytest.raises(FitError, match=r"the headers of .*'s files have more than .* together"):
            read_checkpoint(name, None, from_hub)
    monkeypatch.setattr("vgate.fit.checkpoint._MOST_FILES", 2)
    hub.paths.clear()
    for name in (str(hub.directory), NAME):
        with pytest.raises(FitError, match="names 3 files of weights, and a model has 2 at most"):
            read_checkpoint(name, None, from_hub)
    assert not any("safetensors" in path for path in hub.paths if not path.endswith(INDEX))


def test_no_network_is_told(hub, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(FitError, match="or set HF_ENDPOINT to a mirror"):
        read_checkpoint(NAME, None, from_hub)


def test_offline_asks_nobody(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(FitError, match="HF_HUB_OFFLINE is set: unset it, or name a directory"):
        read_checkpoint(NAME, None, from_hub)
    assert hub.paths == []


@pytest.mark.parametrize("revision", [None, "main", "0123abcd"])
def test_the_cache_is_read_without_the_network(tmp_path, monkeypatch, revision):
    place = tmp_path / "home" / "hub" / "models--acme--tiny"
    write_checkpoint(place / "snapshots" / "0123abcd", TINY, empty=True)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0123abcd")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert read_checkpoint(NAME, revision, from_hub).tensors == checkpoint(TINY).tensors


def test_a_cache_with_only_a_tokenizer_is_no_model(hub, tmp_path):
    place = tmp_path / "home" / "hub" / "models--acme--tiny"
    (place / "snapshots" / "0123abcd").mkdir(parents=True)
    (place / "snapshots" / "0123abcd" / "config.json").write_text("{}")
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text("0123abcd")
    assert read_checkpoint(NAME, None, from_hub).tensors == checkpoint(TINY).tensors
