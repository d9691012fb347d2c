"""Files for browsers, kept in memory, and headers with which a page only loads from its server."""

import hashlib
from pathlib import Path

import msgspec

from vgate.errors import NotFoundError
from vgate.frontend.http.request import Headers, HttpRequest, Response

_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}
# Nothing but this server's files and answers, no inline script or style, and no HTML from a string:
# what a model writes can't become a part of the page.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "connect")),
        "img-src 'self' data:",
        *(f"{kind} 'none'" for kind in ("base-uri", "form-action", "frame-ancestors")),
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_SECURITY = (
    ("content-security-policy", _POLICY),
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), geolocation=(), microphone=()"),
    ("referrer-policy", "no-referrer"),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
)


class _File(msgspec.Struct, frozen=True):
    body: bytes
    etag: str
    headers: Headers


class StaticFiles:
    """The files of a directory, read once.

    A browser keeps them, and asks each time whether they have changed.
    """

    def __init__(self, directory: Path) -> None:
        self._files = {
            path.relative_to(directory).as_posix(): _read(path)
            for path in directory.rglob("*")
            if path.suffix in _TYPES
        }

    def answer(self, http: HttpRequest, name: str) -> Response:
        """Return the response with a file, or 304 if the browser has it.

        Raises:
            NotFoundError: There is no such file.
        """
        file = self._files.get(name)
        if file is None:
            raise NotFoundError(f"there is no {http.path}")
        # "/" has another answer for programs.
        http.set_header("vary", "accept, origin")
        if file.etag in (http.header("if-none-match") or ""):
            return Response(304, b"", file.headers)
        return Response(200, file.body, file.headers)


def _read(path: Path) -> _File:
    body = path.read_bytes()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    about = [("etag", etag), ("cache-control", "no-cache")]
    return _File(body, etag, [("content-type", _TYPES[path.suffix]), *about, *_SECURITY])
