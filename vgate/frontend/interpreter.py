"""How long one thread of a frontend may keep the interpreter while another one waits for it.

granian's thread needs the interpreter for a moment at each request, body and disconnect. An idle
loop gives it up at once, a busy one only after Python's switch interval of 5 ms, and a chat waits
for it several times. A shorter interval costs a fast engine's streams about one token in a
hundred, so it is for work that keeps the loop or other threads busy, while that goes on.
"""

import sys

_SHARED_S = 0.0005


class Interpreter:
    """Shortens the switch interval for as long as anybody asks for it. Used from the loop only."""

    def __init__(self) -> None:
        self._usual_s = sys.getswitchinterval()
        self._sharers = 0

    def share(self) -> None:
        """Give it to a waiting thread soon, until `keep` is called as often as this."""
        if not self._sharers:
            sys.setswitchinterval(_SHARED_S)
        self._sharers += 1

    def keep(self) -> None:
        """Take back one call of `share`."""
        self._sharers -= 1
        if not self._sharers:
            sys.setswitchinterval(self._usual_s)


# The process has one.
interpreter = Interpreter()
