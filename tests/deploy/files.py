"""What is in the files for deployment, for the tests of them."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
ALERT_TESTS = Path(__file__).with_name("alerts_test.yml")
PROMETHEUS = DEPLOY / "prometheus" / "prometheus.yml"
DASHBOARDS = sorted((DEPLOY / "grafana" / "dashboards").glob("*.json"))
RUNBOOK = ROOT / "docs" / "observe.md"

_METRIC = re.compile(r"\bvgate_[a-z0-9_]+")


def read_yaml(path: Path) -> Any:
    """Return a YAML file's document."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def alerts() -> list[dict[str, Any]]:
    """Return all alerting rules."""
    return [rule for group in read_yaml(ALERTS)["groups"] for rule in group["rules"]]


def panels(dashboard: Path) -> Iterator[dict[str, Any]]:
    """Yield the panels that show something, without the rows between them."""
    for panel in json.loads(dashboard.read_text(encoding="utf-8"))["panels"]:
        if panel["type"] != "row":
            yield panel


def expressions() -> Iterator[tuple[str, str]]:
    """Yield where each PromQL expression is, and the expression."""
    for rule in alerts():
        yield f"alert {rule['alert']}", rule["expr"]
    for path in DASHBOARDS:
        for panel in panels(path):
            for target in panel["targets"]:
                yield f"panel {panel['title']}", target["expr"]


def metrics_in(expression: str) -> set[str]:
    """Return the names of our metrics in an expression."""
    return set(_METRIC.findall(expression))


class Stage:
    """One stage of the Dockerfile.

    Attributes:
        image: What it starts from, with the defaults of arguments put in.
        name: After AS.
        steps: Instruction and its text, continued lines joined.
    """

    def __init__(self, image: str, name: str) -> None:
        self.image = image
        self.name = name
        self.steps: list[tuple[str, str]] = []

    def last(self, instruction: str) -> str | None:
        """Return the text of the last such instruction, which is the one that counts."""
        return next((text for name, text in reversed(self.steps) if name == instruction), None)

    def all(self, instruction: str) -> list[str]:
        """Return the texts of all such instructions."""
        return [text for name, text in self.steps if name == instruction]

    @property
    def environment(self) -> dict[str, str]:
        """Variables that the stage sets."""
        pairs = [word for text in self.all("ENV") for word in shlex.split(text)]
        return dict(pair.split("=", 1) for pair in pairs)


def stages() -> dict[str, Stage]:
    """Return the Dockerfile's stages by name."""
    found: dict[str, Stage] = {}
    arguments: dict[str, str] = {}
    stage = None
    for instruction, text in _steps((ROOT / "Dockerfile").read_text(encoding="utf-8")):
        if instruction == "FROM":
            image, _, name = text.partition(" AS ")
            stage = found[name] = Stage(_filled(image, arguments), name)
        elif stage is None:
            assert instruction == "ARG"
            name, _, default = text.partition("=")
            arguments[name] = _filled(default, arguments)
        else:
            stage.steps.append((instruction, text))
    return found


def _steps(text: str) -> Iterator[tuple[str, str]]:
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for step in "\n".join(lines).replace("\\\n", " ").splitlines():
        if step.strip():
            instruction, _, rest = step.strip().partition(" ")
            yield instruction, " ".join(rest.split())


def _filled(text: str, arguments: dict[str, str]) -> str:
    return re.sub(r"\$\{(\w+)\}", lambda found: arguments[found[1]], text)
