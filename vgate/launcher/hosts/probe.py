"""``vgate engine --probe``: asks the launcher of an engine host, for Kubernetes and for scripts."""

from collections.abc import Iterable
from typing import Literal

from vgate.commands.command import EXIT_FAILED, EXIT_OK
from vgate.commands.text import note
from vgate.launcher.child import EngineChild
from vgate.launcher.reload.cli import AskError, ask
from vgate.wire.codec import decode_probed
from vgate.wire.control import Probe, Probed

_ANSWER_S = 5.0


def probe(run_dir: str, what: Literal["ready", "live"]) -> int:
    """Ask the instance in a run directory; print what is wrong, and return the exit status."""
    try:
        answer: Probed = ask(run_dir, Probe(), decode_probed, _ANSWER_S)
        problem = answer.not_ready if what == "ready" else answer.not_live
    except AskError as error:
        problem = str(error)
    if problem:
        note(problem)
    return EXIT_FAILED if problem else EXIT_OK


def probed(engines: Iterable[EngineChild], *, stopping: bool) -> Probed:
    """Return the answer to a probe; the launcher's loop lives, since it gives one."""
    states = [engine.state for engine in engines]
    if stopping:
        return Probed("", "it is being stopped")
    if any(state.state == "ready" for state in states):
        return Probed("", "")
    return Probed("", "; ".join(f"the engine is {each.state}: {each.detail}" for each in states))
