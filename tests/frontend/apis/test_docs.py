"""The tables of fields in ``docs/`` are current."""

import pytest

from tests.frontend.apis.documented import tables
from vgate.frontend.apis.docs import CLIENTS, PAGES, TABLES, clients_in, policies_in, rendered

FOUND = tables()


@pytest.mark.parametrize("page", sorted(PAGES.glob("api*.md")), ids=lambda page: page.name)
def test_the_tables_are_current(page):
    text = page.read_text(encoding="utf-8")
    assert rendered(text) == text, "run: python -m vgate.frontend.apis.docs"


def test_every_table_exists():
    assert set(FOUND) == set(TABLES)


@pytest.mark.parametrize("name", TABLES)
def test_every_field_is_listed_once(name):
    kinds = {field: policy.kind for field, policy in policies_in(name).items()}
    assert [(row.name, row.kind) for row in FOUND[name]] == list(kinds.items())


def test_remarks_stay_and_new_fields_ask_for_an_example():
    old = "| `gone` | served | x | `1` | y |\n| `logprobs` | refused | odd | `1` | mind | this |\n"
    page = rendered(f"# x\n\n<!-- fields: completions -->\n| head |\n|---|\n{old}\nMore.")
    assert page.startswith("# x\n\n<!-- fields: completions -->\n| field | | takes | example | |\n")
    prompt, logprobs, *rest = page.partition("|---|---|---|---|---|\n")[2].split("\n")
    assert prompt.startswith("| `prompt` | served | text (not empty) or list (not empty) of texts")
    assert prompt.endswith(", required | `` | |")
    words = "true or false or integer (at least -1)"
    assert logprobs == f"| `logprobs` | served | {words} | `1` | mind | this |"
    assert rest == ["", "More."]


def test_the_page_lists_the_documented_clients():
    written = (PAGES / "clients.md").read_text(encoding="utf-8")
    assert CLIENTS.read_text(encoding="utf-8") == clients_in(written), (
        "run: python -m vgate.frontend.apis.docs"
    )
