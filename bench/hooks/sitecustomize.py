"""Puts hooks into a process: Python imports this module by its name from PYTHONPATH.

A hook runs if its variable is set. It is a module here with `changes`, which takes the variable's
value and returns functions by module name; each changes its module once that is loaded.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import Callable
from typing import Any

_HOOKS = {
    "ENGINE_STEPS_FILE": "engine_steps",
    "LOOP_HOLDS_DIR": "loop_holds",
    "PACED_DEVICE": "paced_device",
}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules that are to be changed, and changes them when they are loaded."""

    def __init__(self, changes: dict[str, Callable[[Any], None]]) -> None:
        self._changes = changes

    def find_spec(
        self, name: str, path: Any, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        change = self._changes.get(name)
        spec = change and importlib.machinery.PathFinder.find_spec(name, path, target)
        if not change or not spec or not spec.loader:
            return None
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            change(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec


for _variable, _hook in _HOOKS.items():
    if value := os.environ.get(_variable):
        sys.meta_path.insert(0, _Finder(importlib.import_module(_hook).changes(value)))
