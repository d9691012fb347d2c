"""A Hub on this machine, as far as `huggingface_hub` needs it, that can misbehave in every way."""

import contextlib
import hashlib
import json
import re
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "a" * 40
NAME = "me/model"
_STALL_S = 5.0


class FakeHub(ThreadingHTTPServer):
    """The model `name`; `files` are its files by name.

    Attributes:
        commit: What its main branch is.
        requests: Methods, paths and ranges that came, in order.
        tokens: The authorization headers that came.
        refuse: By what a path contains: a status, headers, and how often (None: always).
        cut_after: How many bytes of a large file are sent before the connection is cut.
        stalls: How often it stops sending there instead, but keeps the connection.
        cuts: How often that is still to happen.
        pieces_s: A pause after each 64 KiB of a large file.
        ranges: Whether a part is sent where it is asked for.
        storage: Where large files are, if they are on another server.
        hashes: Whether the list of the files has their hashes and sizes.
        spoil: How often a large file is still sent with a wrong byte.
        small_spoil: The same of config.json.
        listed_bytes: What the list says of the size of large files; None: the truth.
        etag: What the server calls small files; None: git's hash.
        told: The Content-Length of large files: "" sends them in chunks; None: the truth.
    """

    daemon_threads = True

    def __init__(self, files, name=NAME):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files, self.name, self.commit = dict(files), name, COMMIT
        self.requests, self.tokens = [], []
        self.refuse = {}
        self.cut_after = self.cuts = self.stalls = self.spoil = self.small_spoil = 0
        self.pieces_s = 0.0
        self.ranges = self.hashes = True
        self.storage = ""
        self.listed_bytes = self.etag = self.told = None
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def asked(self, ending):
        """Return the ranges that were asked of a file ("" for all of it)."""
        return [
            given
            for method, path, given in self.requests
            if path.endswith(ending) and method == "GET"
        ]

    def took(self, name):
        """Count down something that is to happen a few times; return whether it is to happen."""
        with self.lock:
            left = getattr(self, name)
            setattr(self, name, max(0, left - 1))
            return left > 0


@contextlib.contextmanager
def fake_hub(files, name=NAME):
    """Serve a Hub with a model until the block ends."""
    server = FakeHub(files, name)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def git_hash(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, *, body):
        hub, path = self.server, urllib.parse.unquote(self.path.partition("?")[0])
        if path == "/api/agent-harnesses":
            # The library asks once in a process, whichever test is the first; no test is about it.
            self._send(404, {}, b"{}", body=body)
            return
        hub.requests.append((self.command, path, self.headers.get("Range", "")))
        hub.tokens.append(self.headers.get("Authorization"))
        if refused := self._refused(path):
            self._send(*refused, b"{}", body=body)
            return
        api = f"/api/models/{hub.name}"
        if path.startswith(f"{api}/tree/"):
            content = json.dumps([_listed(*item) for item in hub.files.items()]).encode()
            self._send(200, {}, content, body=body)
        elif re.fullmatch(rf"{api}(/revision/(main|v1|{hub.commit}))?", path):
            siblings = [_sibling(*item) for item in hub.files.items()]
            if not hub.hashes:
                siblings = [{"rfilename": one["rfilename"]} for one in siblings]
            if hub.listed_bytes is not None:
                for one in siblings:
                    one["size"] = hub.listed_bytes if "lfs" in one else one["size"]
            document = {"id": hub.name, "sha": hub.commit, "siblings": siblings}
            self._send(200, {}, json.dumps(document).encode(), body=body)
        elif path.startswith(f"{api}/revision/"):
            self._send(404, {"X-Error-Code": "RevisionNotFound"}, b"{}", body=body)
        elif (name := path.partition(f"/{hub.name}/resolve/")[2].partition("/")[2]) in hub.files:
            self._file(name, hub.files[name], body=body)
        else:
            self._send(404, {"X-Error-Code": "RepoNotFound"}, b"{}", body=body)

    def _refused(self, path):
        for part, (status, headers, times) in list(self.server.refuse.items()):
            if part in path and times != 0:
                if times is not None:
                    self.server.refuse[part] = (status, headers, times - 1)
                return status, headers
        return None

    def _file(self, name, content, *, body):
        hub = self.server
        large = _is_large(content)
        if large and body and hub.storage:
            self._send(302, {"Location": f"{hub.storage}{self.path}"}, b"", body=False)
            return
        etag = sha256(content) if large else hub.etag or git_hash(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": hub.commit}
        status = 200
        if large and body and hub.took("spoil"):
            content = b"!" + content[1:]
        if name == "config.json" and body and hub.took("small_spoil"):
            content = b"!" + content[1:]
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted and hub.ranges:
            start, size = int(wanted[1]), len(content)
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
            content, status = content[start:], 206
        self._send(status, headers, content, body=body, large=large)

    def _send(self, status, headers, content, *, body, large=False):
        hub = self.server
        self.send_response(status)
        told = hub.told if large and hub.told is not None else str(len(content))
        length = {"Content-Length": told} if told else {"Transfer-Encoding": "chunked"}
        for key, value in {**length, **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if not body:
            return
        with contextlib.suppress(ConnectionError):
            stalls = large and hub.took("stalls")
            if stalls or (large and hub.took("cuts")):
                self.wfile.write(content[: hub.cut_after])
                time.sleep(_STALL_S * stalls)
                self.close_connection = True
                return
            for at in range(0, len(content), 65536):
                piece = content[at : at + 65536]
                self.wfile.write(piece if told else b"%x\r\n%b\r\n" % (len(piece), piece))
                if large:
                    time.sleep(hub.pieces_s)
            if not told:
                self.wfile.write(b"0\r\n\r\n")


def _is_large(content):
    return len(content) >= 100_000


def _listed(name, content):
    entry = {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
    if _is_large(content):
        entry["lfs"] = {"oid": sha256(content), "size": len(content), "pointerSize": 1}
    return entry


def _sibling(name, content):
    entry = {"rfilename": name, "size": len(content), "blobId": git_hash(content)}
    if _is_large(content):
        entry["lfs"] = {"sha256": sha256(content), "size": len(content), "pointerSize": 1}
    return entry
