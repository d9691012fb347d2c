"""`python -m bench.load URL ...`: exit status 0 if all is complete, 1 if not, 2 if refused."""

import asyncio
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from bench.load.options import UsageError, parse
from bench.load.run import run
from bench.load.summary import table


def main(arguments: Sequence[str]) -> int:
    """Run, print the summary, write the JSON file; return the exit status."""
    try:
        options, headers = parse(arguments)
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            summary = runner.run(run(options, headers))
    except UsageError as error:
        print(f"bench.load: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("bench.load: stopped before anything was sent", file=sys.stderr)
        return 2
    print(table(summary))
    if options.json_file:
        encoded = msgspec.json.format(msgspec.json.encode(summary), indent=2)
        try:
            Path(options.json_file).write_bytes(encoded + b"\n")
        except OSError as error:
            print(f"bench.load: cannot write the results: {error}", file=sys.stderr)
            return 2
    return 0 if summary.all_complete else 1


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    # uvloop halves the cost of a chunk; without it the same code runs on asyncio's own loop.
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
