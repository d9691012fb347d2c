"""guidellm, a load generator."""

import json
import shlex

import pytest

from tests.clients.conftest import Client
from vgate.engine.backends.dry_run.vocabulary import built_in_files
from vgate.wire.model_files import TOKENIZER

pytestmark = pytest.mark.clients

REQUESTS = 10


def benchmark(client: Client, python_program, more: str = "") -> dict[str, int]:
    """Run the documented command, with more in its backend's settings; return what was counted."""
    guidellm = python_program("guidellm", "guidellm")
    program, *arguments = shlex.split(client.documented("guidellm"))
    assert program == "guidellm"
    arguments[arguments.index("--backend") + 1] += more
    prompts = [json.dumps({"prompt": f"Hello {number}"}) for number in range(20)]
    data = client.write(client.directory / "prompts.jsonl", "\n".join(prompts))
    tokenizer = client.directory / "tokenizer"
    client.write(tokenizer / "tokenizer.json", built_in_files().contents[TOKENIZER].decode())
    settings = json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"})
    client.write(tokenizer / "tokenizer_config.json", settings)
    client.run(
        guidellm,
        *arguments,
        *("--profile", "kind=concurrent,streams=2"),
        *("--constraint", f"kind=max_requests,count={REQUESTS}"),
        *("--data", f"kind=json_file,path={data}"),
        *("--tokenizer", f"kind=hf_auto,model={tokenizer}"),
        *("--output", "kind=json,path=report.json"),
        "--disable-console-interactive",
    )
    report = json.loads((client.directory / "report.json").read_text())
    totals: dict[str, int] = report["benchmarks"][0]["metrics"]["request_totals"]
    return totals


def test_a_benchmark(client: Client, python_program):
    totals = benchmark(client, python_program)
    assert (totals["successful"], totals["errored"]) == (REQUESTS, 0)
