"""The shape of the code: sizes, cycles, and how much stands under one endpoint."""

import ast
import re
import statistics
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHAT = "vgate.frontend.apis.openai.chat.endpoint"

MAX_LINES = 60_380
MAX_FILE_LINES = 342
MAX_FUNCTION_LINES = 56
MAX_MEDIAN_FUNCTION_LINES = 7
MAX_MODULES_IN_A_DIRECTORY = 15
MAX_MODULES_UNDER_CHAT = 39
# With the packages around them.
MAX_MODULES_LOADED_BY_CHAT = 45

FILES = sorted((ROOT / "vgate").rglob("*.py"))


def name_of(path: Path) -> str:
    """Return the dotted name of a module or package."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in FILES}


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions() -> Iterator[tuple[str, int]]:
    """Yield every function with its number of lines."""
    for path in FILES:
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                yield f"{name_of(path)}.{node.name}", node.end_lineno - node.lineno + 1


@cache
def imports_of(module: str) -> frozenset[str]:
    """Return what a module imports of vgate: anywhere in it, for typing as well."""
    found = set()
    for node in ast.walk(tree_of(MODULES[module])):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                found.add(name if name in MODULES else node.module)
    return frozenset(found & MODULES.keys()) - {module}


def under(module: str) -> set[str]:
    """Return a module and all that it imports, directly or not."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += imports_of(name)
    return seen


def loaded_by(module: str) -> set[str]:
    """Return vgate's modules that a fresh interpreter has loaded after it imported a module."""
    program = f"import sys, {module}; print(*(m for m in sys.modules if m.startswith('vgate')))"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def cycles() -> list[list[str]]:
    """Return the groups of modules that import each other."""
    reach = {module: under(module) - {module} for module in MODULES}
    found = {
        tuple(sorted({module} | {other for other in reach[module] if module in reach[other]}))
        for module in MODULES
    }
    return [list(group) for group in sorted(found) if len(group) > 1]


def test_the_product_stays_small():
    lines = sum(len(path.read_text(encoding="utf-8").splitlines()) for path in FILES)
    assert lines <= MAX_LINES


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_file_is_long(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= MAX_FILE_LINES


def test_functions_are_short():
    sizes = dict(functions())
    assert {name: lines for name, lines in sizes.items() if lines > MAX_FUNCTION_LINES} == {}
    assert statistics.median(lines for _, lines in functions()) <= MAX_MEDIAN_FUNCTION_LINES


def test_no_directory_is_crowded():
    crowded = {}
    for directory in {path.parent for path in FILES}:
        modules = [path for path in directory.glob("*.py") if path.name != "__init__.py"]
        if len(modules) > MAX_MODULES_IN_A_DIRECTORY:
            crowded[str(directory.relative_to(ROOT))] = len(modules)
    assert crowded == {}


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_no_private_name_is_unused(path):
    """Neither ruff nor mypy looks for constants, functions and classes that nothing uses."""
    words = Counter(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    defined = set()
    for node in tree_of(path).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            names = (name for name in ast.walk(node) if isinstance(name, ast.Name))
            defined |= {name.id for name in names if isinstance(name.ctx, ast.Store)}
    private = {name for name in defined if name.startswith("_") and not name.startswith("__")}
    assert {name for name in private if words[name] == 1} == set()


def test_no_import_cycle():
    assert cycles() == []


def test_few_modules_stand_under_the_chat_endpoint():
    assert len(under(CHAT)) <= MAX_MODULES_UNDER_CHAT
    assert len(loaded_by(CHAT)) <= MAX_MODULES_LOADED_BY_CHAT


@pytest.mark.parametrize("page", ["docs/architecture.md", "CONTRIBUTING.md"])
def test_paths_in_the_documents_exist(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    named = {
        path for path in re.findall(r"`([a-z_.0-9]+(?:/[a-z_.0-9]+)*/?)`", text) if "/" in path
    }
    # Made by the first command.
    named.discard(".venv/")
    places = [ROOT, ROOT / "vgate", ROOT / "vgate" / "frontend"]
    missing = {path for path in named if not any((place / path).exists() for place in places)}
    assert missing == set()
