"""Start times and memory: of each start that the other scenarios needed, and of who is missing."""

from bench.compare.contenders import CONTENDERS, Settings
from bench.compare.stage import Stage

_QUICK = ("vgate-dry-run", "granian", "fastapi")


def starts(stage: Stage) -> None:
    """Start once who has not been started; the figures stand in the table of starts."""
    known = {start.contender for start in stage.starts}
    for name in _QUICK if stage.plan.quick else CONTENDERS:
        if name in known:
            continue
        with stage.running(name, settings=Settings(workers=1)):
            pass
    stage.note("See the table of starts.")
