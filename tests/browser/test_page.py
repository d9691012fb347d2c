"""The page in a real browser, on real processes."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from tests.browser.conftest import ADMIN, MODELS, TENANT, Visitor
from tests.e2e.instance import Instance, wait_until
from vgate.frontend.apis.docs import PAGES

# The first test waits for the server and the browser, too.
pytestmark = [pytest.mark.browser, pytest.mark.timeout(300)]

VIEWS = ["/#now", "/#chat", "/#keys", "/#connect", "/docs"]
CHAT = "/v1/chat/completions"
FOCUSED = "(({ariaLabel, textContent}) => ariaLabel || textContent)(document.activeElement)"

# What a screen reader has no name for.
NAMELESS = """() => [...document.querySelectorAll(
    'button, input, select, textarea, a, meter, progress, canvas')].filter((each) =>
    !(each.ariaLabel || each.labels?.[0]?.textContent || each.textContent.trim()
      || each.closest('[role=img][aria-label]'))).map((each) => each.outerHTML)"""


def headers(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


class Stream(threading.Thread):
    """A request that streams until it is stopped, as another client's."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.text = ""
        self.start()

    def run(self) -> None:
        messages = [{"role": "user", "content": "on and on"}]
        body = {"model": "tiny", "messages": messages, "ignore_eos": True, "stream": True}
        with httpx.stream(
            "POST", self._url + CHAT, json=body, headers=headers(TENANT), timeout=60
        ) as response:
            for text in response.iter_text():
                self.text += text

    def end(self) -> None:
        self.join(60)
        assert not self.is_alive()


@contextmanager
def streaming(server: Instance) -> Iterator[Stream]:
    stream = Stream(server.url)
    wait_until(lambda: stream.text, 45, "the stream begins")
    yield stream
    stream.end()


def ask(page: Any, text: str) -> Any:
    """Send a message, and return the last answer."""
    page.get_by_label("Message").fill(text)
    page.keyboard.press("Enter")
    return page.locator(".answer").last


def wait_answered(page: Any) -> None:
    page.get_by_role("button", name="Send", exact=True).wait_for()


class TestNow:
    def test_charts_move(self, server, visit):
        page = visit().open()
        tokens = page.get_by_role("region", name="Tokens per second")
        picture = "chart => chart.querySelector('canvas').toDataURL()"
        tokens.locator("canvas").wait_for()
        before = tokens.evaluate(picture)
        with streaming(server):
            wait_until(lambda: tokens.locator("b").inner_text() not in "–0", 45, "a rate is shown")
            wait_until(lambda: tokens.evaluate(picture) != before, 45, "the chart moves")
            gap = page.get_by_role("region", name="Gap between tokens").locator("b").first
            wait_until(lambda: "ms" in gap.inner_text(), 45, "a gap is shown")
            page.get_by_role("row", name=re.compile("alice")).get_by_text("Stop").click()

    def test_a_request_is_stopped(self, server, visit):
        page = visit().open()
        with streaming(server) as stream:
            row = page.get_by_role("row", name=re.compile("alice"))
            row.get_by_text("running").wait_for()
            row.get_by_text("Stop").click()
            stream.end()
            assert "[DONE]" not in stream.text
            assert '"error"' in stream.text
            page.get_by_text("No request is running.").wait_for()

    def test_a_tenant_sees_its_own(self, visit):
        page = visit(TENANT).open()
        page.get_by_text("This key sees its own use only").wait_for()
        page.goto(page.url + "#keys")
        page.get_by_role("region", name="Limits").get_by_text("alice").wait_for()
        assert page.get_by_role("cell", name="ops").count() == 0
        assert page.get_by_role("button", name="Add a key").count() == 0

    def test_without_a_key_it_asks_for_one(self, visit):
        visitor = visit(None)
        page = visitor.open()
        page.get_by_label("Key", exact=True).fill(ADMIN)
        page.keyboard.press("Enter")
        page.get_by_role("region", name="Engine of tiny").get_by_text("running").wait_for()
        assert page.evaluate("Object.values(localStorage).join().includes('sk-')") is False
        assert visitor.problems.pop().count("401") == 1


def test_it_shows_an_engine_that_loads(browser, run_dirs):
    loading = Instance(run_dirs, dry_run=True, server__workers=1).launch()
    try:
        engine = wait_until(lambda: loading.pids().get("engine"), 30, "the engine's process")
        os.kill(engine, signal.SIGSTOP)
        wait_until(lambda: reachable(loading.url), 60, "the frontend serves")
        with Visitor(browser, loading.url, None) as visitor:
            page = visitor.open()
            state = page.get_by_role("region", name=re.compile("Engine of")).locator(".pill")
            state.get_by_text("starting", exact=True).wait_for()
            page.locator("#status").get_by_text("loading").wait_for()
            os.kill(engine, signal.SIGCONT)
            state.get_by_text("ready", exact=True).wait_for()
            page.goto(page.url.partition("#")[0] + "#chat")
            page.get_by_role("heading", name="Talk to").wait_for()  # it knows the model
            ask(page, "Hello!").get_by_text("Hello!").wait_for()
            loading.stop()
            page.locator("#status").get_by_text("no answer").wait_for()
            problem = ask(page, "Still there?").locator(".notice").last
            problem.get_by_text("There is no answer").wait_for()
            problem.get_by_text("The server doesn't answer. Retry asks again.").wait_for()
            page.get_by_role("link", name="Now").click()
            page.get_by_role("note").get_by_text("The page tries again by itself.").wait_for()
            visitor.problems.clear()
    finally:
        loading.discard()


def reachable(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health").status_code == 200
    except httpx.TransportError:
        return False


def test_numbers_are_read_off_histograms(visit):
    read = """async () => {
        const { quantile, Readings } = await import(new URL('ui/readings.js', location));
        const stats = (gaps, hits, restarts) => ({
            engines: [{ running: 1, waiting: 2, kv_cache_usage: 0.5 }],
            histograms: { ttft_s: { bounds: [1, 2], counts: [0, gaps, 0] },
                          inter_token_s: { bounds: [1, 2], counts: [0, gaps, 0] } },
            cache: { hits, misses: 0 }, prefix_cache: { hits: 1, queries: 2 },
        });
        const readings = new Readings();
        readings.read(stats(100, 0), 10);
        const rise = readings.read(stats(200, 3), 15);
        const begunAnew = readings.read(stats(5, 0), 20);
        return [quantile(0.5, [0, 10, 0], [1, 2]), quantile(0.99, [0, 0, 1], [1, 2]),
                quantile(0.5, [0, 0], [1]), rise.tokensPerS, rise.ttft[0], rise.hits,
                begunAnew.tokensPerS, begunAnew.ttft[0]];
    }"""
    assert visit().open().evaluate(read) == [1.5, 2, None, 20, 1.5, 1, None, None]


def test_no_label_of_the_clock_is_cut_at_the_edge(visit):
    read = """async () => {
        const { isCut } = await import(new URL('ui/chart.js', location));
        const plot = { scales: { x: { min: 0, max: 100 } }, width: 456 };
        return [0, 50, 94, 96, 100].map((time) => isCut(plot, time));
    }"""
    assert visit().open().evaluate(read) == [False, False, False, True, True]


def test_problems_are_sentences(visit):
    read = """async () => {
        const { problemIn } = await import(new URL('ui/chat.js', location));
        const { ApiError } = await import(new URL('ui/api.js', location));
        return [new ApiError(429, 'too many; try again in 4 s', 'Wait a moment.'),
                new ApiError(0, 'No answer.'), new Error('it failed'),
                new TypeError('network error')].map(problemIn);
    }"""
    assert visit().open().evaluate(read) == [
        "too many; try again in 4 s. Wait a moment.",
        "No answer. Retry asks again.",
        "it failed.",
        "The connection was lost. Retry asks again.",
    ]


class TestChat:
    def test_an_answer_streams(self, visit):
        page = visit().open("/#chat")
        text = "stream this " * 20
        answer = ask(page, text).locator(".markdown").last
        lengths = set()

        def ended() -> bool:
            lengths.add(len(answer.inner_text()))
            return page.get_by_role("button", name="Send", exact=True).is_visible()

        wait_until(ended, 45, "the answer ends")
        assert len(lengths) > 3
        assert answer.inner_text() == text.strip()
        facts = page.locator(".answer .facts").inner_text()
        assert re.search(r"\d prompt .*\d generated · TTFT .* tokens/s", facts)

    def test_keys_alone_are_enough(self, visit):
        page = visit().open("/#chat")
        page.locator(".hello h2").wait_for()
        page.evaluate("document.activeElement.blur()")

        def focus(name: str) -> str:
            """Press Tab until it is reached; return how its focus is drawn."""
            for _ in range(60):
                page.keyboard.press("Tab")
                if page.evaluate(FOCUSED) == name:
                    break
            else:
                pytest.fail(f"Tab never reaches {name}")
            style: str = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            return style

        focus("Message")
        page.keyboard.type("say something ")
        page.keyboard.insert_text("that lasts " * 20)
        page.keyboard.press("Enter")
        page.locator(".answer .markdown").last.get_by_text("say").wait_for()
        page.keyboard.press("Escape")
        page.get_by_text("You stopped it.", exact=True).wait_for()
        wait_answered(page)
        assert focus("Retry") != "none"
        page.keyboard.press("Enter")
        page.get_by_role("button", name="Stop").wait_for()
        wait_answered(page)
        assert "lasts" in page.locator(".answer").inner_text()

    def test_edit_replaces_what_follows(self, visit):
        page = visit().open("/#chat")
        for text in ("first", "second"):
            ask(page, text)
            wait_answered(page)
        page.get_by_role("button", name="Edit").first.click()
        assert page.get_by_label("Message").input_value() == "first"
        ask(page, "other")
        wait_answered(page)
        assert page.locator(".bubble").all_inner_texts() == ["other"]

    def test_reasoning_is_folded_and_models_answer_side_by_side(self, visit):
        page = visit().open("/#chat")
        page.get_by_label("tiny-b").check()
        ask(page, "think")
        wait_answered(page)
        answers = page.locator(".answer")
        assert answers.count() == len(MODELS)
        first, second = (answers.nth(n).bounding_box() for n in range(2))
        assert first["y"] == second["y"]
        assert answers.first.locator("em").inner_text() == "42"
        assert not answers.first.locator(".reasoning strong").is_visible()
        answers.first.get_by_text("Reasoning").click()
        assert answers.first.locator(".reasoning strong").inner_text() == "hard"

    def test_a_tool_is_called_and_answered(self, visit):
        page = visit().open("/#chat")
        page.get_by_role("button", name="Insert an example").click()
        answer = ask(page, "How is the weather?")
        answer.get_by_text("get_weather").wait_for()
        wait_answered(page)
        assert json.loads(answer.locator("pre").inner_text()) == {"city": "Paris"}
        page.get_by_label("Result of the tool").fill("sunny")
        page.get_by_role("button", name="Send the result").click()
        page.get_by_text("Take sunglasses.", exact=True).wait_for()

    def test_what_a_model_writes_stays_text(self, visit):
        page = visit().open("/#chat")
        text = (
            "<img src=x onerror=alert(1)> [a](javascript:alert(1)) ![b](https://evil.example/x)"
            "\n\n```js\n<script>alert(1)</script>\n```\n\n- **b** <b>c</b>"
        )
        answer = ask(page, text)
        wait_answered(page)
        shown = answer.locator(".markdown").last
        assert shown.locator("img, script, b, [href^=javascript]").count() == 0
        assert "<img src=x onerror=alert(1)>" in shown.inner_text()
        assert shown.locator("pre").inner_text() == "<script>alert(1)</script>"
        assert shown.locator("li strong").inner_text() == "b"

    def test_any_text_is_shown_whole_and_soon(self, visit):
        """Marks without an end must not take the page's time."""
        show = """async () => {
            const { showMarkdown } = await import(new URL('ui/markdown.js', location));
            const shown = (text) => {
                const element = document.createElement('div');
                for (const end of [text.length / 2, text.length])
                    showMarkdown(element, text.slice(0, end));
                return element.textContent;
            };
            const marks = ['`', '**', '*', '~~', '[', '](', '> ', '- ', '1. ', '|', '#', 'a', ' ',
                           '\\n', '\\n\\n', '```', '<b>', '---'];
            let seed = 1;
            const random = () => (seed = (seed * 48271) % 2147483647) / 2147483647;
            for (let round = 0; round < 300; round++) {
                const text = Array.from({ length: 40 },
                    () => marks[Math.floor(random() * marks.length)]).join('');
                const letters = (of) => of.replaceAll(/[^a]/g, '').length;
                // What stands behind an opening fence is the name of a language.
                const said = text.replaceAll(/^(> |[-*1. ])*[ >]*(```|~~~).*$/gm, '');
                if (letters(shown(text)) < letters(said)) return text;
            }
            for (const mark of marks) {
                shown(mark.repeat(20_000 / mark.length));
                shown((mark + 'a ').repeat(2_000));
            }
            return 'shown';
        }"""
        assert visit().open().evaluate(show) == "shown"

    def test_it_is_kept_if_wanted(self, visit):
        page = visit().open("/#chat")
        page.get_by_label("System prompt").fill("Be brief.")
        page.get_by_label("Temperature").fill("0.5")
        ask(page, "keep this")
        wait_answered(page)
        page.reload()
        page.locator(".bubble", has_text="keep this").wait_for()
        assert page.get_by_label("Temperature").input_value() == "0.5"
        page.get_by_label("Keep this conversation").uncheck()
        assert "keep this" not in page.evaluate("localStorage['vgate.chat']")
        page.reload()
        page.locator(".hello").wait_for()

    @pytest.mark.parametrize("language", ["curl", "Python", "JavaScript"])
    def test_copied_requests_work(self, server, visit, tmp_path, language):
        visitor = visit()
        visitor.grant("clipboard-read", "clipboard-write")
        page = visitor.open("/#chat")
        page.get_by_label("Most tokens").fill("40")
        page.get_by_label("Message").fill('it\'s "quoted" $HOME')
        page.get_by_role("button", name=language, exact=True).click()
        text = page.evaluate("navigator.clipboard.readText()")
        assert server.url in text
        assert ADMIN not in text
        program = tmp_path / "copied"
        program.write_text(text)
        commands = {"curl": ["bash"], "Python": [sys.executable], "JavaScript": ["node", "--check"]}
        command = commands[language]
        if shutil.which(command[0]) is None or (language == "curl" and not shutil.which("curl")):
            pytest.skip(f"{language} is not installed")
        if language == "JavaScript":
            program = program.rename(tmp_path / "copied.mjs")
        ran = subprocess.run(
            [*command, program],
            env={**os.environ, "VGATE_API_KEY": ADMIN},
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        if language == "Python":
            assert ran.stdout == 'it\'s "quoted" $HOME'
        if language == "curl":
            assert ran.stdout.rstrip().endswith("data: [DONE]")


class TestKeys:
    def test_a_key_is_added_works_is_rotated_and_revoked(self, server, visit):
        def status(key: str) -> int:
            return httpx.get(f"{server.url}/v1/models", headers=headers(key)).status_code

        page = visit().open("/#keys")
        page.get_by_role("button", name="Add a key").click()
        page.get_by_label("Name", exact=True).fill("bob")
        page.get_by_label("Requests at once").fill("3")
        page.get_by_role("button", name="Add", exact=True).click()
        first = page.get_by_role("dialog").locator(".secret code").inner_text()
        # Both workers read the file every quarter of a second.
        wait_until(lambda: {status(first) for _ in range(8)} == {200}, 30, "the key works")
        page.get_by_role("button", name="Done").click()
        row = page.get_by_role("row", name=re.compile("bob")).filter(has_text="3 at once")
        row.get_by_text("Rotate").click()
        page.get_by_role("dialog").get_by_role("button", name="Rotate").click()
        second = page.get_by_role("dialog").locator(".secret code").inner_text()
        assert second != first
        wait_until(lambda: {status(first) for _ in range(8)} == {401}, 30, "the old one ends")
        page.get_by_role("button", name="Done").click()
        row.get_by_text("Revoke").click()
        page.get_by_role("dialog").get_by_role("button", name="Revoke").click()
        page.get_by_text("bob was revoked.").wait_for()
        wait_until(lambda: {status(second) for _ in range(8)} == {401}, 30, "the key ends")

    def test_what_was_used_is_shown(self, visit):
        page = visit().open("/#chat")
        ask(page, "Hello!")
        wait_answered(page)
        page.goto(page.url.replace("#chat", "#keys"))
        table = page.get_by_role("region", name="Use by key and day")

        def counted() -> bool:
            page.get_by_role("button", name="Refresh").click()
            page.get_by_role("heading", name="Use", exact=True).wait_for()
            return table.get_by_role("row", name=re.compile(r"ops tiny \d")).count() == 1

        # Counts reach the ledger every two seconds.
        wait_until(counted, 45, "the ledger has it")
        assert page.locator(".bars .day").count() == 30


class TestConnect:
    def test_every_client_is_there_with_this_server_s_address(self, server, visit):
        page = visit().open("/#connect")
        names = re.findall(r"(?m)^### (.*)", (PAGES / "clients.md").read_text())
        page.get_by_role("heading", name=names[-1]).wait_for()
        assert page.locator(".client h3").all_inner_texts() == names
        texts = page.locator(".client pre").all_inner_texts()
        assert not [text for text in texts if "127.0.0.1:8000" in text or "my-model" in text]
        assert server.url in "".join(texts)
        page.get_by_label("Model").select_option("tiny-b")
        assert "tiny-b" in page.locator(".client pre").first.inner_text()

    def test_the_api_is_described(self, server, visit):
        page = visit().open("/docs")
        document = httpx.get(f"{server.url}/openapi.json", headers=headers(ADMIN)).json()
        page.locator(".operation").first.wait_for()
        shown = set(page.locator(".operation h3 code").all_inner_texts())
        assert shown == document["paths"].keys()
        fields = document["components"]["schemas"]["ChatRequest"]["properties"]
        apart = page.locator(f'.operation[aria-label="post {CHAT}"] > details dt code')
        not_served = {name for name, field in fields.items() if "x-vgate-policy" in field}
        assert set(apart.all_text_contents()) == not_served
        assert "`" not in page.locator("main").inner_text()
        page.get_by_label("Find a path or a field").fill("top_logprobs")
        assert page.locator(".operation:visible h3 code").first.inner_text() == CHAT


class TestEverywhere:
    def test_on_a_phone_every_view_scrolls_only_down_and_everything_has_a_name(self, visit):
        phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
        visitor = visit(**phone)
        for view in VIEWS:
            page = visitor.open(view)
            page.locator("main h1").wait_for(state="attached")
            page.wait_for_load_state("networkidle")
            assert page.evaluate("document.documentElement.scrollWidth") == 360, view
            assert page.evaluate(NAMELESS) == [], view

    def test_on_a_phone_the_addresses_to_connect_to_are_shown(self, server, visit):
        page = visit(viewport={"width": 360, "height": 740}).open("/#connect")
        for address in (f"{server.url}/v1", server.url):
            page.locator("dd").get_by_text(address, exact=True).wait_for(state="visible")

    def test_it_follows_the_system_s_colours_until_one_is_chosen(self, visit):
        page = visit(color_scheme="dark").open()
        ground = "getComputedStyle(document.body).backgroundColor"
        dark = page.evaluate(ground)
        page.emulate_media(color_scheme="light")
        light = page.evaluate(ground)
        assert dark != light
        page.get_by_role("button", name="Theme: Auto").click()
        page.get_by_role("button", name="Theme: Light").click()
        assert page.evaluate(ground) == dark
        page.reload()
        assert page.evaluate(ground) == dark

    def test_nothing_else_runs_or_is_asked(self, visit):
        visitor = visit()
        page = visitor.open()
        page.get_by_role("region", name="Engine of tiny").wait_for()
        assert visitor.problems == []
        page.evaluate("""() => {
            const script = document.createElement('script');
            script.append('window.injected = true');
            document.body.append(script);
        }""")
        assert page.evaluate("window.injected") is None
        for attempt in (
            "await fetch('http://127.0.0.1:9/')",
            "document.body.innerHTML = '<b>x</b>'",
            "await import('data:text/javascript,window.injected = true')",
        ):
            run = f"(async () => {{ {attempt} }})().then(() => 'done', String)"
            assert page.evaluate(run) != "done", attempt
        assert page.evaluate("window.injected") is None
        assert visitor.problems
        visitor.problems.clear()
