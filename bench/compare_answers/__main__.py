"""Compares the answers of V-Gate with those of vLLM's server, request by request.

Exit status 0 if all are equal, 1 if one differs, 2 if they could not be compared.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench.compare import markdown
from bench.compare.contenders import build
from bench.compare.models import Models
from bench.compare.service import FailedError, Running, UnavailableError
from bench.compare.settings import Settings, Setup
from bench.compare_answers.answers import Answer, ask
from bench.compare_answers.by_design import comparable
from bench.compare_answers.cases import Case, cases
from bench.compare_answers.difference import Difference, first_difference

EQUAL, DIFFERENT, REFUSED = "equal", "DIFFERENT", "refused by both"
# With random weights a model would fill every gap in a structure with endless whitespace.
_ENGINE = {"structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True}}


class Verdict(msgspec.Struct, frozen=True):
    """The result of one case."""

    group: str
    name: str
    outcome: str
    difference: Difference | None = None


def judge(case: Case, ours: Answer, theirs: Answer) -> Verdict:
    """Compare two answers to one request."""
    if ours.status != 200 and ours.status == theirs.status:
        return Verdict(case.group, case.name, REFUSED)
    if ours.status != theirs.status:
        difference = Difference("status", _said(ours), _said(theirs))
        return Verdict(case.group, case.name, DIFFERENT, difference)
    found = None
    if ours.status == 200:
        found = first_difference(*comparable(ours.content, theirs.content, case.body))
    return Verdict(case.group, case.name, DIFFERENT if found else EQUAL, found)


def _said(answer: Answer) -> str:
    return str(answer.status) if answer.status == 200 else f"{answer.status}: {answer.content}"


def table(verdicts: Sequence[Verdict], other: str) -> str:
    """Return a Markdown table."""
    rows = []
    for one in verdicts:
        found = one.difference or Difference("", "", "")
        cells = (f"{one.group}: {one.name}", one.outcome, found.path, found.ours, found.theirs)
        rows.append([" ".join(cell.replace("|", "\\|").split())[:160] for cell in cells])
    lines = markdown.table(["request", "outcome", "where", "vgate", other], rows)
    outcomes = [one.outcome for one in verdicts]
    counts = [f"{outcomes.count(outcome)} {outcome}" for outcome in (EQUAL, DIFFERENT, REFUSED)]
    return "\n".join([*lines, "", ", ".join(counts)])


def main(arguments: Sequence[str]) -> int:
    """Compare, print the table; return the exit status."""
    options = _parser().parse_args(arguments)
    wanted = [case for case in cases() if options.only in f"{case.group}: {case.name}"]
    if not wanted:
        print(f"bench.compare_answers: no case has {options.only!r} in it", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="vgate-answers-") as directory:
        work = Path(directory)
        setup = Setup(
            models=Models(work),
            work=work,
            vllm_rs=options.vllm_rs,
            model=options.model and options.model.resolve(),
            engine_arguments=_ENGINE,
        )
        try:
            verdicts = _compare(setup, options.against, wanted)
        except (UnavailableError, FailedError) as error:
            print(f"bench.compare_answers: {error}", file=sys.stderr)
            print(getattr(error, "log", ""), file=sys.stderr)
            return 2
    print(table(verdicts, options.against))
    if options.json:
        options.json.write_bytes(msgspec.json.format(msgspec.json.encode(verdicts), indent=1))
    return 1 if any(one.outcome == DIFFERENT for one in verdicts) else 0


def _compare(setup: Setup, against: str, wanted: Sequence[Case]) -> list[Verdict]:
    settings = Settings(max_num_seqs=16)
    verdicts = []
    _say("starting vgate")
    with Running(build("vgate", setup, settings)) as ours:
        _say(f"starting {against}")
        with Running(build(against, setup, settings)) as theirs:
            for case in wanted:
                verdict = judge(case, ask(ours.service, case), ask(theirs.service, case))
                _say(f"{case.group}: {case.name}: {verdict.outcome}")
                verdicts.append(verdict)
    return verdicts


def _say(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.compare_answers", description=__doc__)
    add = parser.add_argument
    peers = ("vllm-serve", "vllm-serve-1p", "vllm-rs")
    add("--against", choices=peers, default="vllm-serve", help="default vllm-serve")
    add("--only", default="", metavar="TEXT", help="cases with this in their name")
    add("--model", type=Path, metavar="DIR", help="a model instead of the tiny one")
    add("--vllm-rs", type=Path, metavar="FILE", help="vLLM's Rust frontend")
    add("--json", type=Path, metavar="FILE", help="also write the verdicts to it")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
