"""Our own processes' turns on the processor, as the kernel says they are."""

from __future__ import annotations

import platform
import subprocess
import sys

PROBE = """
import ctypes, os, sys
from bridgehold.sandbox.limits import slices

def mine():
    found = slices._Attributes(size=48)
    number = {"x86_64": 315, "aarch64": 275}[os.uname().machine]
    ctypes.CDLL(None).syscall(number, 0, ctypes.byref(found), 48, 0)
    return found.runtime

before = mine()
taken = slices.shorten(reset_on_fork=sys.argv[1] == "reset")
read, write = os.pipe()
if os.fork() == 0:
    os.write(write, str(mine()).encode())
    os._exit(0)
os.wait()
print(int(taken), before, mine(), os.read(read, 100).decode())
"""


def slices_of(way: str) -> list[int]:
    """Whether it was taken; the slice before, after, and of a child, in nanoseconds."""
    said = subprocess.run(
        [sys.executable, "-c", PROBE, way], capture_output=True, text=True, check=True
    ).stdout
    return [int(word) for word in said.split()]


def test_the_slice_is_short_and_what_is_started_keeps_it_or_not() -> None:
    kept = slices_of("keep")
    reset = slices_of("reset")
    assert (kept[0], reset[0]) == (1, 1)
    major, minor = (int(part) for part in platform.release().split(".")[:2])
    if (major, minor) >= (6, 12):
        assert kept[2:] == [100_000, 100_000]
        assert reset[2:] == [100_000, reset[1]]
        assert reset[1] > 100_000
    else:  # taken, and without effect
        assert kept[1] == kept[2] == kept[3]
