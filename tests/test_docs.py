"""Every page is in the site, and links of what isn't a page of it lead somewhere.

`bin/test --docs` follows the links of the pages themselves.
"""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
OUTSIDE = ["README.md", "CONTRIBUTING.md", "bench/README.md"]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def pages_of(nav: Any) -> Iterator[str]:
    """Yield the files in a table of contents, at any depth."""
    if isinstance(nav, str):
        yield nav
    else:
        for entry in nav.values() if isinstance(nav, dict) else nav:
            yield from pages_of(entry)


def anchors_of(path: Path) -> set[str]:
    """Return what a page's headings are called in links."""
    headings = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def test_every_page_is_in_the_site():
    site = tomllib.loads((ROOT / "zensical.toml").read_text())["project"]
    assert sorted(pages_of(site["nav"])) == sorted(p.name for p in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize("name", OUTSIDE)
def test_links_lead_somewhere(name: str):
    path = ROOT / name
    lost = []
    for link in LINK.findall(path.read_text()):
        if link.startswith("http"):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            lost.append(link)
    assert lost == []
