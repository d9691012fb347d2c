"""lm-eval, on tasks with three questions: generated answers, and log probabilities of choices."""

import json
import shlex

import pytest

from tests.clients.conftest import Client

pytestmark = pytest.mark.clients

GENERATE = """
output_type: generate_until
doc_to_target: "Understood."
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 32, do_sample: false}
metric_list: [{metric: exact_match, aggregation: mean, higher_is_better: true}]
"""
CHOOSE = """
output_type: multiple_choice
doc_to_choice: ["yes", "no"]
doc_to_target: 0
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""


def evaluate(client: Client, python_program, number: int, task: str) -> dict[str, float]:
    """Run the documented command on a task; return its results."""
    lm_eval = python_program("lm_eval", "lm_eval")
    program, *arguments = shlex.split(client.documented("lm-eval", number))
    assert program == "lm_eval"
    questions = [json.dumps({"question": f"Question {number}?"}) for number in range(3)]
    data = client.write(client.directory / "questions.jsonl", "\n".join(questions))
    files = f"dataset_kwargs: {{data_files: {{test: {data}}}}}\ndataset_path: json\n"
    head = f'task: tiny\n{files}test_split: test\ndoc_to_text: "{{{{question}}}}"'
    client.write(client.directory / "tasks" / "tiny.yaml", head + task)
    options = ("--tasks", "tiny", "--include_path", "tasks", "--output_path", "out.json")
    client.run(lm_eval, *arguments, *options)
    (results,) = client.directory.glob("out*.json")
    found: dict[str, float] = json.loads(results.read_text())["results"]["tiny"]
    return found


def test_generated_answers(client: Client, python_program):
    assert evaluate(client, python_program, 0, GENERATE)["exact_match,none"] == 1


def test_log_probabilities_of_choices(client: Client, python_program):
    assert 0 <= evaluate(client, python_program, 1, CHOOSE)["acc,none"] <= 1


def test_generated_answers_with_the_servers_tokenizer(client: Client, python_program):
    assert evaluate(client, python_program, 1, GENERATE)["exact_match,none"] == 1
