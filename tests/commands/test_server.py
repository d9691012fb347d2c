"""How a command finds its server, and what it says where there is none or another one."""

import argparse
import json
import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from tests.authority import OPENSSL, Authority
from vgate.commands.command import CommandError, run_command
from vgate.commands.server import ApiError, Server, configure_server
from vgate.config import Config
from vgate.config.schema import Server as Settings
from vgate.config.schema import Tls


def server_of(*arguments, **settings):
    parser = argparse.ArgumentParser()
    configure_server(parser)
    return Server(parser.parse_args(arguments), Config(server=Settings(**settings)))


ANSWERS = {
    "/text": b"<html>",
    "/list": b"[1]",
    "/deep": b"[" * 100_000,
    "/numbers": b'{"data": [1]}',
    "/v1/models": b'{"data": []}',
}


class Handler(BaseHTTPRequestHandler):
    """Answers by the path: what it was sent, an error, text, or events."""

    def do_GET(self):
        errors = {"/refused": 401, "/forbidden": 403}
        status = errors.get(self.path, 200)
        body = json.dumps(dict(self.headers)).encode()
        if status != 200:
            body = b'{"error": {"message": "only for admins"}}'
        body = ANSWERS.get(self.path, body)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_POST(self):
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b": a comment\n\ndata: " + asked + b"\n\n")
        if self.path != "/broken":
            self.wfile.write(b"data: [DONE]\n\n")

    def log_message(self, *_):
        pass


@pytest.fixture
def http_server():
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def url(http_server):
    return f"http://127.0.0.1:{http_server.server_port}"


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    for name in ("VGATE_URL", "VGATE_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize(
    ("given", "url"),
    [
        ("http://box:8000", "http://box:8000"),
        ("https://box/v1/", "https://box"),
        ("box:81", "http://box:81"),
        ("http://box/vgate/v1", "http://box/vgate"),
    ],
)
def test_a_url_is_taken_as_people_write_it(given, url):
    assert server_of("--url", given).url == url


@pytest.mark.parametrize(
    "url", ["ftp://box", "http://", "http://box:port", "http://[box", "http://a b", "http://a\n"]
)
def test_what_is_no_url_is_refused(url):
    with pytest.raises(CommandError, match="is no URL such as http://gpu-box:8000") as refused:
        server_of("--url", url)
    assert refused.value.status == 2


def test_without_one_it_is_that_of_the_variable_or_the_configuration(environment):
    assert server_of(port=81).url == "http://127.0.0.1:81"
    assert server_of(host="::").url == "http://[::1]:8000"
    tls = Tls(certificate="c", key="k")
    assert server_of(host="0.0.0.0", tls=tls).url == "https://127.0.0.1:8000"
    environment.setenv("VGATE_URL", "http://box")
    assert server_of(port=81).url == "http://box"


def test_the_key_comes_from_a_file_or_the_variable(environment, url, tmp_path):
    assert "Authorization" not in server_of("--url", url).get("/")
    environment.setenv("VGATE_API_KEY", "sk-1")
    assert server_of("--url", url).get("/")["Authorization"] == "Bearer sk-1"
    file = tmp_path / "key"
    file.write_text("sk-2\n")
    answer = server_of("--url", url, "--api-key-file", str(file)).get("/")
    assert answer["Authorization"] == "Bearer sk-2"
    file.write_text("two keys\n")
    with pytest.raises(CommandError, match="must hold one API key"):
        server_of("--api-key-file", str(file))
    environment.setenv("VGATE_API_KEY", "sk-1\nsk-2")
    with pytest.raises(CommandError, match="VGATE_API_KEY must hold one API key"):
        server_of("--url", url)
    with pytest.raises(CommandError, match="cannot read the API key in /no/file: No such file"):
        server_of("--api-key-file", "/no/file")


def test_events_are_read_to_the_end(url):
    server = server_of("--url", url)
    assert list(server.stream("/", {"a": 1}, {})) == [{"a": 1}]
    with pytest.raises(ApiError, match="too long"):
        list(server.stream("/", {"error": {"message": "too long"}}, {}))
    with pytest.raises(CommandError, match="ended within the answer"):
        list(server.stream("/broken", {}, {}))


def test_errors_are_told_in_the_servers_words(environment, url):
    server = server_of("--url", url)
    with pytest.raises(ApiError, match="only for admins") as refused:
        server.get("/forbidden")
    assert (refused.value.code, refused.value.status) == (403, 1)
    with pytest.raises(ApiError, match="wants an API key: give one as VGATE_API_KEY or with"):
        server.get("/refused")
    environment.setenv("VGATE_API_KEY", "sk-old")
    with pytest.raises(ApiError, match="does not know this API key: give one"):
        server_of("--url", url).get("/refused")
    for path in ("/text", "/list", "/deep"):
        with pytest.raises(CommandError, match="it is no V-Gate server"):
            server.get(path)
    for path in ("/", "/numbers"):
        with pytest.raises(CommandError, match="it is no V-Gate server"):
            server.objects(path)


def test_a_key_that_may_use_no_model(url):
    with pytest.raises(CommandError, match="may use no model"):
        server_of("--url", url).models()


def test_a_servers_words_do_not_reach_the_terminal_as_commands(capsys):
    class Command:
        NEEDS_CONFIG = False

        def run(self, _options, _config):
            raise ApiError("\x1b[2Jno", 400)

    assert run_command(Command(), argparse.Namespace()) == 1
    assert capsys.readouterr().err == "vgate: \ufffd[2Jno\n"


def test_without_a_server_it_says_how_to_start_one():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        with pytest.raises(CommandError, match=f"answers on http://127.0.0.1:{port}: start") as no:
            server_of(port=port).get("/ready")
    assert no.value.status == 3
    with pytest.raises(CommandError, match=r"there is no host `no-such-host.invalid`: check"):
        server_of("--url", "http://no-such-host.invalid").get("/ready")


@pytest.mark.skipif(OPENSSL is None, reason="needs openssl")
def test_https_and_http_are_told_apart(http_server, tmp_path, url):
    with pytest.raises(CommandError, match=r"does not answer in HTTPS \(.*\); try http://"):
        server_of("--url", url.replace("http:", "https:")).get("/")
    certificate, key = Authority(tmp_path).sign("somewhere.example")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    http_server.socket = context.wrap_socket(http_server.socket, server_side=True)
    secure = url.replace("http:", "https:")
    # A certificate of another name: this machine is trusted, others are not.
    assert "Host" in server_of("--url", secure).get("/")
    with pytest.raises(CommandError, match="is it an https:// server"):
        server_of("--url", url).get("/")
