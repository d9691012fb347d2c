"""`python -m bench.compare`: exit status 0 if every answer was right, 1 if not, 2 if refused."""

import signal
import sys
from collections.abc import Sequence

import msgspec

from bench.compare.cli import parse
from bench.compare.markdown import document
from bench.compare.run import compare


def main(arguments: Sequence[str]) -> int:
    """Compare, write both files, print the tables; return the exit status."""
    options = parse(arguments)
    # So that contenders are ended when this program is.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    comparison = compare(options)
    encoded = msgspec.json.format(msgspec.json.encode(comparison), indent=1)
    text = document(comparison)
    try:
        options.out.write_bytes(encoded + b"\n")
        options.out.with_suffix(".md").write_text(text, encoding="utf-8")
    except OSError as error:
        print(f"bench.compare: cannot write the results: {error}", file=sys.stderr)
        return 2
    print(text)
    for failure in comparison.failures:
        print(f"wrong: {failure}", file=sys.stderr)
    return 1 if comparison.failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
