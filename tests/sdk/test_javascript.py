"""OpenAI's JavaScript client: runs tests/sdk/javascript, each of its cases as a subtest."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.instance import Instance
from tests.sdk import conversation

pytestmark = pytest.mark.javascript

SUITE = Path(__file__).parent / "javascript"
SUITES = re.findall(r"'\./(.+)\.test\.mjs'", (SUITE / "suite.mjs").read_text())
TIMEOUT_S = 110
LEAST_CASES = 130


@pytest.fixture(scope="module")
def run(gateway: Instance, guarded: Instance) -> subprocess.CompletedProcess[str]:
    """Node's output: a line of JSON for each case."""
    node = shutil.which("node")
    assert node, "node is not on PATH"
    assert (SUITE / "node_modules").is_dir(), f"run `npm install` in {SUITE}, or bin/test"
    told = {
        "url": gateway.url,
        "guardedUrl": guarded.url,
        "model": conversation.MODEL,
        "alias": conversation.ALIAS,
        "brief": conversation.BRIEF,
        "embedder": conversation.EMBEDDER,
        "key": conversation.KEY,
        "limitedKey": conversation.LIMITED_KEY,
    }
    return subprocess.run(
        [node, "--test-reporter=./reporter.mjs", "suite.mjs"],
        cwd=SUITE,
        env={**os.environ, "SDK_SUITE": json.dumps(told)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )


@pytest.fixture(scope="module")
def outcomes(run: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    lines = run.stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith('{"suite":')]


@pytest.mark.parametrize("suite", SUITES)
def test_suite(outcomes: list[dict[str, Any]], subtests: pytest.Subtests, suite: str):
    cases = [outcome for outcome in outcomes if outcome["suite"] == suite]
    assert cases, f"no case of {suite} was run"
    for case in cases:
        with subtests.test(msg=case["name"]):
            assert case["passed"], case["error"] or "skipped"


def test_all_cases_ran(run: subprocess.CompletedProcess[str], outcomes: list[dict[str, Any]]):
    assert {outcome["suite"] for outcome in outcomes} == set(SUITES), run.stderr
    assert {path.name.partition(".")[0] for path in SUITE.glob("*.test.mjs")} == set(SUITES)
    assert len(outcomes) >= LEAST_CASES
    assert (run.returncode == 0) == all(outcome["passed"] for outcome in outcomes), run.stderr
