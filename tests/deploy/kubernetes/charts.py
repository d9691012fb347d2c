"""Renders the Helm chart with Helm; as a program it writes the plain manifests.

    .venv/kubernetes/bin/python -m tests.deploy.kubernetes.charts

writes deploy/kubernetes/ after a change of the chart. bin/test --kubernetes makes that environment.
"""

import copy
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.files import DEPLOY
from tests.deploy.kubernetes.pods import Manifest

CHART = DEPLOY / "helm/vgate"
VALUES = sorted((DEPLOY / "helm/values").glob("*.yaml"))
PLAIN = DEPLOY / "kubernetes"
# Those that need the operators of others are examples of the chart alone.
IN_PLAIN = ("cpu", "single", "split", "split-ha")
NAME, NAMESPACE = "vgate", "default"


def values_of(name: str, **overrides: Any) -> Manifest:
    """Return a file of values, with others over them: maps are merged."""
    file = DEPLOY / "helm/values" / f"{name}.yaml"
    return merged(yaml.safe_load(file.read_text(encoding="utf-8")), overrides)


def merged(values: Manifest, overrides: Manifest) -> Manifest:
    """Return values with others over them."""
    result = copy.deepcopy(values)
    for key, value in overrides.items():
        below = result.get(key)
        nested = isinstance(value, dict) and isinstance(below, dict)
        result[key] = merged(below, value) if nested else value
    return result


def render(values: Manifest) -> dict[str, str]:
    """Return what each template gives, as `helm template` does; schema and lookups included.

    Raises:
        HelmError: The values are refused, or a template fails.
    """
    import helm_python

    with helm_python.Chart.load(CHART) as chart:
        chart.validate_schema(values)
        texts: dict[str, str] = chart.render(values, name=NAME, namespace=NAMESPACE)
    return {Path(path).name: text for path, text in texts.items() if text.strip()}


def manifests(values: Manifest) -> list[Manifest]:
    """Return the objects that the chart makes."""
    texts = render(values)
    return [
        found
        for name, text in sorted(texts.items())
        if name != "NOTES.txt"
        for found in yaml.safe_load_all(text)
        if found
    ]


def plain(name: str) -> str:
    """Return the text of a file of plain manifests."""
    texts = render(values_of(name))
    parts = [text.strip() for file, text in sorted(texts.items()) if file != "NOTES.txt"]
    head = (
        f"# Made of the chart with deploy/helm/values/{name}.yaml by\n"
        "#     .venv/kubernetes/bin/python -m tests.deploy.kubernetes.charts\n"
        f"# kubectl apply -f deploy/kubernetes/{name}.yaml\n"
    )
    body = "\n---\n".join(part.removeprefix("---").strip() for part in parts) + "\n"
    # There is no release that Helm manages.
    lines = [line for line in body.splitlines() if not line.strip().startswith(_OF_HELM)]
    return head + "\n".join(line.rstrip() for line in lines) + "\n"


_OF_HELM = ("helm.sh/chart:", "app.kubernetes.io/managed-by:")

if __name__ == "__main__":
    PLAIN.mkdir(exist_ok=True)
    for each in IN_PLAIN:
        (PLAIN / f"{each}.yaml").write_text(plain(each), encoding="utf-8")
