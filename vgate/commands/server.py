"""The running server that a command asks: where it is, its key, its answers and its errors."""

import argparse
import http.client
import json
import os
import socket
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vgate.commands.command import EXIT_NO_SERVER, EXIT_USAGE, CommandError
from vgate.commands.text import plain
from vgate.config import Config
from vgate.config.links import is_loopback

ANSWER_S = 10.0


def configure_server(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that name the server."""
    group = parser.add_argument_group("the server to ask")
    group.add_argument(
        "--url",
        default=os.environ.get("VGATE_URL"),
        help="such as http://gpu-box:8000 (default: VGATE_URL, or server.host and server.port)",
    )
    group.add_argument(
        "--api-key-file",
        metavar="FILE",
        help="file with the API key (default: the variable VGATE_API_KEY)",
    )
    group.add_argument(
        "--insecure", action="store_true", help="accept any certificate, such as a self-signed one"
    )


class ApiError(CommandError):
    """The server has answered with an error, in its own words; `code` is the HTTP status."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class Server:
    """Sends requests to the server that `configure_server`'s options or `config` name.

    Raises:
        CommandError: The URL or the key file can't be used. Every request raises it where no
            server answers, with `EXIT_NO_SERVER`, and `ApiError` where the answer is an error.
    """

    def __init__(self, options: argparse.Namespace, config: Config) -> None:
        self.url = _normal(options.url) if options.url else config.server.local_url
        self.host = urllib.parse.urlsplit(self.url).hostname or ""
        self.key = _key(options.api_key_file)
        self.is_local = is_loopback(self.host)
        # A certificate is another name's than that of the loopback interface.
        self.tls = ssl.create_default_context() if self.url.startswith("https:") else None
        if self.tls is not None and (self.is_local or options.insecure):
            self.tls.check_hostname = False
            self.tls.verify_mode = ssl.CERT_NONE
        # The proxy of http_proxy is meant for other machines.
        proxies = [urllib.request.ProxyHandler({})] if self.is_local else []
        https = urllib.request.HTTPSHandler(context=self.tls)
        self._opener = urllib.request.build_opener(*proxies, https)

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request."""
        key = {"Authorization": f"Bearer {self.key}"} if self.key else {}
        return {"Content-Type": "application/json", **key}

    def get(self, path: str, also: Sequence[int] = ()) -> dict[str, Any]:
        """Return the JSON that a path answers, with one of the statuses `also` too."""
        return self._json(self._open("GET", path, None, also=also))

    def objects(self, path: str) -> list[dict[str, Any]]:
        """Return the objects of the list that a path answers."""
        data = self.get(path).get("data")
        if not isinstance(data, list) or not all(isinstance(each, dict) for each in data):
            raise self._other()
        return data

    def named(self, path: str, field: str, wanted: object) -> dict[str, Any]:
        """Return the object in the list at `path` whose `field` is `wanted`.

        Raises:
            CommandError: There is none. The sentence lists those that there are, and calls them by
                `field`, such as "engine".
        """
        found = self.objects(path)
        for each in found:
            if each[field] == wanted:
                return each
        names = ", ".join(plain(each[field]) for each in found)
        raise CommandError(f"there is no {field} {wanted}; there are: {names}")

    def models(self) -> list[str]:
        """Return the names of the models, of which there is one at least."""
        if not (names := [str(model.get("id")) for model in self.objects("/v1/models")]):
            raise CommandError(f"this API key may use no model that {self.url} serves")
        return names

    def post(self, path: str, body: Any, timeout_s: float | None = ANSWER_S) -> dict[str, Any]:
        """Return the JSON that a path answers to a body; without a limit it may take long."""
        return self._json(self._open("POST", path, body, timeout_s=timeout_s))

    def delete(self, path: str) -> dict[str, Any]:
        """Return the JSON that a path answers to DELETE."""
        return self._json(self._open("DELETE", path, None))

    def stream(self, path: str, body: Any, headers: Mapping[str, str]) -> Generator[dict[str, Any]]:
        """Yield the events of a streamed answer; each is an object.

        Closing the iterator closes the connection, which stops the generation.
        """
        with self._open("POST", path, body, headers=headers, timeout_s=None) as response:
            try:
                for line in response:
                    if not line.startswith(b"data:"):
                        continue
                    data = line[5:].strip()
                    if data == b"[DONE]":
                        return
                    event = json.loads(data)
                    if "error" in event:
                        raise ApiError(_message(event, ""), 200)
                    yield event
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise CommandError(f"the connection broke within the answer: {error}") from None
        raise CommandError("the connection ended within the answer")

    def _open(
        self,
        method: str,
        path: str,
        body: Any,
        *,
        headers: Mapping[str, str] | None = None,
        also: Sequence[int] = (),
        timeout_s: float | None = ANSWER_S,
    ) -> Any:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(  # noqa: S310 - `_normal` lets only http and https pass
            self.url + path, data, {**self.headers, **(headers or {})}, method=method
        )
        try:
            return self._opener.open(request, timeout=timeout_s)
        except urllib.error.HTTPError as error:
            if error.code in also:
                return error
            raise self._api_error(error) from None
        except (OSError, http.client.HTTPException) as error:
            raise CommandError(self._no_server(error), EXIT_NO_SERVER) from None

    def _json(self, response: Any) -> dict[str, Any]:
        try:
            with response:
                document = json.load(response)
        except (ValueError, RecursionError):
            raise self._other() from None
        except (OSError, http.client.HTTPException) as error:
            raise CommandError(self._no_server(error), EXIT_NO_SERVER) from None
        if not isinstance(document, dict):
            raise self._other()
        return document

    def _other(self) -> CommandError:
        return CommandError(f"{self.url} answers, but it is no V-Gate server")

    def _api_error(self, error: urllib.error.HTTPError) -> ApiError:
        with error:
            try:
                message = _message(json.load(error), error.reason)
            except (OSError, ValueError, RecursionError, http.client.HTTPException):
                message = f"{error.url} answers {error.code} {error.reason}"
        if error.code == http.HTTPStatus.UNAUTHORIZED:
            what = "does not know this API key" if self.key else "wants an API key"
            message = f"the server {what}: give one as VGATE_API_KEY or with --api-key-file"
        return ApiError(message, error.code)

    def _no_server(self, error: Exception) -> str:
        """Return why there is no answer, and what to do."""
        reason = error.reason if isinstance(error, urllib.error.URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            why = reason.verify_message
            return f"the certificate of {self.url} is not trusted ({why}); --insecure accepts it"
        if isinstance(reason, ssl.SSLError):
            return f"{self.url} does not answer in HTTPS ({reason.reason}); try http://"
        if isinstance(reason, socket.gaierror):
            return f"there is no host `{self.host}`: check --url, or VGATE_URL"
        if isinstance(reason, TimeoutError):
            return f"{self.url} has not answered for {ANSWER_S:g} s"
        if isinstance(reason, ConnectionRefusedError):
            return (
                f"no server answers on {self.url}: start it with bin/vgate, or name another with "
                "--url"
            )
        if isinstance(reason, http.client.HTTPException | ConnectionError):
            other = "http" if self.tls else "https"
            return f"{self.url} does not answer in HTTP; is it an {other}:// server?"
        return f"cannot reach {self.url}: {getattr(reason, 'strerror', None) or reason}"


def _normal(url: str) -> str:
    """Return a URL as people write it with a scheme and without the API's path."""
    whole = url if "://" in url else f"http://{url}"
    try:
        parts = urllib.parse.urlsplit(whole)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or not whole.isascii() or not whole.isprintable() or " " in whole:
        raise CommandError(f"`{plain(url)}` is no URL such as http://gpu-box:8000", EXIT_USAGE)
    return whole.rstrip("/").removesuffix("/v1")


def _key(path: str | None) -> str | None:
    """Return the key of a file, or of the variable."""
    try:
        given = Path(path).read_text(encoding="utf-8") if path else os.environ.get("VGATE_API_KEY")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is no text"
        raise CommandError(f"cannot read the API key in {path}: {why}", EXIT_USAGE) from None
    if not given and not path:
        return None
    key = (given or "").strip()
    if len(key.split()) != 1 or not key.isascii() or not key.isprintable():
        where = path or "VGATE_API_KEY"
        raise CommandError(f"{where} must hold one API key and nothing else", EXIT_USAGE)
    return key


def _message(document: Any, otherwise: str) -> str:
    error = document.get("error") if isinstance(document, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or otherwise)
