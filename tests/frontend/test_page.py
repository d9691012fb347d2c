"""The page's files: who gets them, with which headers, and what they refer to."""

import re

import pytest

from vgate.config.schema import Security, Server
from vgate.frontend.app import _PAGE
from vgate.frontend.http.static import StaticFiles
from vgate.keys import ConfiguredKey

HTML = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
PAGES = ["index.html", "docs.html"]
SECRET = ConfiguredKey(name="ops", key="sk-ops", admin=True, rate_limit=2)


def text_of(name: str) -> str:
    return (_PAGE / name).read_text(encoding="utf-8")


class TestWhoGetsIt:
    def test_browsers_get_the_page_and_programs_json(self, serve):
        async def scenario(gateway):
            page = await gateway.request("GET", "/", **HTML)
            assert page.headers["content-type"].startswith("text/html")
            assert page.body == (_PAGE / "index.html").read_bytes()
            for headers in ({}, {"accept": "*/*"}, {"accept": "application/json"}):
                answer = await gateway.request("GET", "/", **headers)
                assert answer.json["status"] == "ok"
            docs = await gateway.request("GET", "/docs")
            assert docs.body == (_PAGE / "docs.html").read_bytes()

        # It says how far the engine is, so it must not wait for it.
        serve(scenario, engine=False)

    def test_it_needs_no_key(self, serve):
        async def scenario(gateway):
            for path in ("/", "/docs", "/ui/app.js"):
                assert (await gateway.request("GET", path, **HTML)).status == 200
            assert (await gateway.request("GET", "/stats")).status == 401

        security = Security(enabled=True, api_keys=[SECRET], exempt_paths=["/"])
        serve(scenario, security=security, engine=False)

    def test_an_admin_watches_without_limits(self, serve):
        async def scenario(gateway):
            for _ in range(4):
                answer = await gateway.request("GET", "/version", authorization="Bearer sk-ops")
                assert answer.status == 200
                assert "x-ratelimit-limit" not in answer.headers

        serve(scenario, security=Security(enabled=True, api_keys=[SECRET]), engine=False)

    def test_it_can_be_switched_off(self, serve):
        async def scenario(gateway):
            assert (await gateway.request("GET", "/", **HTML)).json["status"] == "ok"
            for path in ("/docs", "/ui/app.js"):
                answer = await gateway.request("GET", path, **HTML)
                assert (answer.status, answer.error["code"]) == (404, "not_found")
                assert "server.ui" in answer.error["message"]

        serve(scenario, server=Server(ui=False), engine=False)

    @pytest.mark.parametrize(
        "name", ["", "x.js", "../app.py", "..%2fapp.py", "/etc/passwd", "\x00"]
    )
    def test_only_its_files_are_served(self, serve, name):
        async def scenario(gateway):
            assert (await gateway.request("GET", f"/ui/{name}")).status == 404

        serve(scenario, engine=False)


class TestHeaders:
    def test_a_browser_asks_whether_it_has_changed(self, serve):
        async def scenario(gateway):
            first = await gateway.request("GET", "/ui/app.js")
            etag = first.headers["etag"]
            again = await gateway.request("GET", "/ui/app.js", if_none_match=f'"other", W/{etag}')
            assert (again.status, again.body, again.headers["etag"]) == (304, b"", etag)
            other = await gateway.request("GET", "/ui/chat.js", if_none_match=etag)
            assert other.status == 200

        serve(scenario, engine=False)

    def test_the_page_is_held_to_its_server(self, serve):
        async def scenario(gateway):
            for path in ("/", "/docs", "/ui/app.js", "/ui/icon.svg"):
                answer = await gateway.request("GET", path, origin="http://localhost", **HTML)
                policy = answer.headers["content-security-policy"]
                assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
                assert "unsafe" not in policy
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["x-frame-options"] == "DENY"
                assert answer.headers["vary"] == "accept, origin"

        serve(scenario, engine=False)

    @pytest.mark.parametrize(
        ("host", "names", "status"),
        [
            ("192.168.1.5:8000", None, 200),
            ("[fd00::5]:8000", None, 200),
            ("box:8000", ["box"], 200),
            # It may be another site's name that points here (DNS rebinding).
            ("evil.example", None, 403),
        ],
    )
    def test_its_requests_are_let_in_under_what_is_surely_its_own(self, serve, host, names, status):
        async def scenario(gateway):
            own = {"origin": f"http://{host}", "host": host}
            assert (await gateway.request("GET", "/version", **own)).status == status
            other = {"origin": "http://10.0.0.1", "host": host}
            assert (await gateway.request("GET", "/version", **other)).status == 403

        serve(scenario, server=Server(host="0.0.0.0", allowed_hosts=names), engine=False)


class TestFiles:
    def test_they_take_little_memory(self):
        files = StaticFiles(_PAGE)
        assert sum(len(file.body) for file in files._files.values()) < 500_000

    @pytest.mark.parametrize("page", PAGES)
    def test_a_page_has_nothing_inline_and_nothing_from_elsewhere(self, page):
        text = text_of(page)
        assert not re.search(r"<style|\sstyle=|\son\w+=|<script>|https?:", text)
        for name in re.findall(r'(?:src|href)="(ui/[^"]+)"', text):
            assert (_PAGE / name.removeprefix("ui/")).exists()

    def test_scripts_load_only_each_other_and_make_no_html(self):
        for path in _PAGE.glob("*.js"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|\beval\(", text), (
                path
            )
            for name in re.findall(r'from "\./([^"]+)"', text):
                assert (_PAGE / name).exists(), path

    def test_the_chart_library_has_its_licence(self):
        assert "Leon Sorokin" in text_of("vendor/LICENSE.txt")


def luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(share * part for share, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("theme", [0, 1, 2], ids=["light", "dark", "dark when chosen"])
def test_contrast_is_aa(theme):
    """WCAG 2.2, 1.4.3: 4.5 for text, and 1.4.11: 3 for the lines of charts."""
    block = re.findall(r"--ground.*?--c1-fill", text_of("style.css"), re.DOTALL)[theme]
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6})", block))
    grounds = ("ground", "card", "code", "accent-soft")
    pairs = [(text, ground) for text in ("text", "faint") for ground in grounds]
    pairs += [(kind, f"{kind}-soft") for kind in ("good", "bad", "busy")]
    pairs += [("accent", "accent-soft"), ("accent", "card"), ("accent-text", "accent")]
    poor = {p: c for p in pairs if (c := contrast(colours[p[0]], colours[p[1]])) < 4.5}
    lines = {line: contrast(colours[line], colours["card"]) for line in ("c1", "c2", "c3", "c4")}
    poor |= {line: ratio for line, ratio in lines.items() if ratio < 3}
    assert poor == {}
