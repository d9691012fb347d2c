"""Alerts and dashboards ask for metrics that there are, and every alert says what to do."""

import json
import re
import shutil
import subprocess

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.deploy.files import (
    ALERT_TESTS,
    ALERTS,
    DASHBOARDS,
    PROMETHEUS,
    RUNBOOK,
    alerts,
    expressions,
    metrics_in,
    panels,
    read_yaml,
)
from tests.e2e.instance import Instance
from vgate import errors
from vgate.frontend.observe import metrics

SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None,
    reason="promtool is not installed (Debian's package prometheus has it)",
)


def series_of(families) -> set[str]:
    return {f"{family.name}{suffix}" for family in families for suffix in SUFFIXES[family.type]}


@pytest.fixture(scope="module")
def known_series(dry_run: Instance) -> set[str]:
    """What frontends count, by its definitions, and what engines tell, as it is shown."""
    shown = httpx.get(f"{dry_run.url}/metrics", timeout=10).text
    families = text_string_to_metric_families(shown)
    ours = [family for family in families if not family.name.startswith("vllm:")]
    return series_of(metrics._registry.collect()) | series_of(ours)


def test_every_metric_that_is_asked_for_exists(known_series: set[str]):
    unknown = {
        f"{where}: {name}"
        for where, expression in expressions()
        for name in metrics_in(expression) - known_series
    }
    assert not unknown


def test_every_metric_is_on_a_dashboard_or_in_an_alert(known_series: set[str]):
    asked = {name for _, expression in expressions() for name in metrics_in(expression)}
    for family in {re.sub(r"_(bucket|sum|count)$", "", name) for name in known_series}:
        # Whether a frontend is up is what Prometheus' own `up` says.
        if family != "vgate_up":
            assert {family, f"{family}_bucket", f"{family}_sum"} & asked, family


@pytest.mark.parametrize("accept", ["text/plain", "application/openmetrics-text; version=1.0.0"])
def test_vllms_names_are_there_in_each_format(dry_run: Instance, accept: str):
    shown = httpx.get(f"{dry_run.url}/metrics", headers={"accept": accept}, timeout=10)
    assert accept.split("; ", maxsplit=1)[0] in shown.headers["content-type"]
    for name in ("num_requests_waiting", "prompt_tokens_total", "request_success_total"):
        assert f"\nvllm:{name}{{" in shown.text
    assert "vllm_" not in shown.text


def test_every_reason_that_is_asked_for_is_an_errors_code():
    codes = set(errors.CODES)
    for where, expression in expressions():
        for reasons in re.findall(r'reason=~?"([^"]*)"', expression):
            assert set(reasons.split("|")) <= codes, where


def test_alerts_are_complete_and_named_once():
    names = [rule["alert"] for rule in alerts()]
    assert len(names) == len(set(names))
    for rule in alerts():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert {"summary", "description", "runbook"} == set(rule["annotations"])


def test_operations_says_what_to_do_about_each_alert():
    headings = re.findall(r"^### (\w+)$", RUNBOOK.read_text(encoding="utf-8"), re.MULTILINE)
    assert headings == [rule["alert"] for rule in alerts()]
    for rule in alerts():
        assert rule["annotations"]["runbook"] == f"docs/observe.md#{rule['alert'].lower()}"


def test_every_alert_is_tested():
    tested = {
        case["alertname"]
        for test in read_yaml(ALERT_TESTS)["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert tested == {rule["alert"] for rule in alerts()}


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_dashboards_use_their_variables_and_have_no_doubles(path):
    document = json.loads(path.read_text(encoding="utf-8"))
    variables = {variable["name"] for variable in document["templating"]["list"]}
    assert {"datasource", "job", "instance", "model"} == variables
    ids = [panel["id"] for panel in document["panels"]]
    assert len(ids) == len(set(ids))
    for panel in panels(path):
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["description"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == "${datasource}"
            assert 'job="$job"' in target["expr"], panel["title"]
            assert 'instance=~"$instance"' in target["expr"], panel["title"]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.name)
def test_panels_do_not_overlap(path):
    taken: set[tuple[int, int]] = set()
    for panel in json.loads(path.read_text(encoding="utf-8"))["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells


@needs_promtool
@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", PROMETHEUS),
        ("check", "rules", ALERTS),
        ("test", "rules", ALERT_TESTS),
    ],
    ids=["config", "rules", "unit tests of rules"],
)
def test_promtool_accepts(arguments):
    done = subprocess.run(
        ["promtool", *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_accepts_the_queries_of_dashboards(tmp_path):
    rules = [
        {"record": f"panel:{number}", "expr": re.sub(r"\$__rate_interval", "1m", expression)}
        for number, (where, expression) in enumerate(expressions())
        if where.startswith("panel")
    ]
    path = tmp_path / "panels.yml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    done = subprocess.run(
        ["promtool", "check", "rules", "--lint=none", path],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_promtool_accepts_the_metrics(dry_run: Instance):
    shown = httpx.get(f"{dry_run.url}/metrics", timeout=10).content
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=shown, capture_output=True, timeout=60, check=False
    )
    complaints = (done.stdout + done.stderr).decode().splitlines()
    colon = "metric names should not contain ':'"
    assert [line for line in complaints if not re.fullmatch(f"vllm:\\w+ {colon}", line)] == []
