"""One server and one Chromium for all tests of the page, and a fresh profile for each."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from tests.browser.installing import find_chromium
from tests.e2e.instance import Instance
from vgate.keys import hash_key

ADMIN, TENANT = "sk-of-the-admin", "sk-of-a-tenant"
MODELS = ["tiny", "tiny-b"]
SCRIPT = """
- last: 'weather'
  prompt: 'get_weather'
  calls: [{name: get_weather, arguments: {city: Paris}}]
- last: 'sunny'
  text: 'Take sunglasses.'
- last: 'think'
  text: '<think>Hm, a **hard** one.</think>It is *42*.'
"""


@pytest.fixture(scope="session")
def server(run_dirs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """Two workers with keys: an admin's, and a tenant's with limits."""
    place = tmp_path_factory.mktemp("page")
    keys = place / "keys.jsonl"
    keys.write_text(
        f'{{"name": "ops", "sha256": "{hash_key(ADMIN)}", "admin": true, "rate_limit": 100000}}\n'
        f'{{"name": "alice", "sha256": "{hash_key(TENANT)}", "tokens_per_minute": 50000}}\n'
    )
    script = place / "script.yaml"
    script.write_text(SCRIPT)
    with Instance(
        run_dirs,
        dry_run=True,
        server__workers=2,
        model__served_model_name=MODELS,
        security__enabled=True,
        security__key_file=str(keys),
        dry_run__script=str(script),
        dry_run__step_ms=10,
    ) as instance:
        yield instance


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    found = find_chromium()
    assert found, "there is no Chromium: run bin/test --browser"
    # Its own sandbox needs another user than root.
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=found, args=arguments)
        yield chromium
        chromium.close()


class Visitor:
    """A browser's fresh profile; a context manager, after which nothing went wrong unless expected.

    Attributes:
        problems: What the page logged as an error, and requests that left the server.
    """

    def __init__(self, browser: Any, url: str, key: str | None, **options: Any) -> None:
        self._context = browser.new_context(**options)
        self._url = url
        self.problems: list[str] = []
        self._context.on("request", self._on_request)
        self.page = self._context.new_page()
        self.page.set_default_timeout(45_000)
        self.page.on("console", self._on_console)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        if key is not None:
            self._context.add_init_script(f"sessionStorage.setItem('vgate.key', '{key}')")

    def open(self, view: str = "/") -> Any:
        self.page.goto(self._url + view)
        return self.page

    def grant(self, *permissions: str) -> None:
        self._context.grant_permissions(list(permissions), origin=self._url)

    def _on_request(self, request: Any) -> None:
        if not request.url.startswith((self._url + "/", "data:")):
            self.problems.append(f"a request left: {request.url}")

    def _on_console(self, message: Any) -> None:
        if message.type == "error":
            self.problems.append(message.text)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        self._context.close()
        if kind is None:
            assert self.problems == []


@pytest.fixture
def visit(browser: Any, server: Instance) -> Iterator[Any]:
    """Returns a visitor, with the admin's key unless another one is given."""
    visitors: list[Visitor] = []

    def start(key: str | None = ADMIN, **options: Any) -> Visitor:
        visitors.append(Visitor(browser, server.url, key, **options))
        return visitors[-1]

    yield start
    for visitor in visitors:
        visitor.__exit__(None)
