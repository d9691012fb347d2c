"""The switch interval is short for as long as anybody asks for it, and otherwise Python's own."""

import sys

from vgate.frontend.interpreter import Interpreter


def test_is_short_until_the_last_one_keeps_it():
    usual = sys.getswitchinterval()
    interpreter = Interpreter()
    interpreter.share()
    interpreter.share()
    assert sys.getswitchinterval() < usual / 5
    interpreter.keep()
    assert sys.getswitchinterval() < usual / 5
    interpreter.keep()
    assert sys.getswitchinterval() == usual
