"""What a frontend has freed is free for others."""

import ctypes
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PROGRAM = """
import ctypes
from vgate.frontend.main import keep_large_objects_apart

class Info(ctypes.Structure):  # mallinfo(3)
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "mapped", "mapped_bytes",
        "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
    )]

info = ctypes.CDLL(None).mallinfo2
info.restype = Info
keep_large_objects_apart()
largest = bytes(8 << 20)
del largest
before = info().mapped
body = bytes(1 << 20)
print(info().mapped - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="needs glibc 2.33")
def test_a_large_body_leaves_no_hole_after_a_larger_one():
    assert subprocess.check_output([sys.executable, "-c", PROGRAM], cwd=ROOT) == b"1\n"
