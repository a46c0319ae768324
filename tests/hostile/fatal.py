"""Acts that end their own session: which typed error the caller gets, from the kernel's word."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fatal:
    row: int
    name: str
    code: str
    codes: tuple[str, ...]
    """The error codes that may come."""


FATAL = [
    Fatal(
        2,
        "memory bomb",
        "held = []\nwhile True:\n    held.append(bytearray(8 << 20))\n",
        ("memory",),
    ),
    Fatal(
        3,
        "two children under one cap",
        """
import os, time
for _ in range(2):
    if os.fork() == 0:
        held = bytearray(170 << 20)
        for i in range(0, len(held), 4096):
            held[i] = 1
        time.sleep(30)
        os._exit(0)
os.wait()
time.sleep(30)
""",
        ("memory",),
    ),
    Fatal(
        4,
        "memfd bomb",
        """
import os
fd = os.memfd_create("bomb")
while True:
    os.write(fd, b"x" * (8 << 20))
""",
        # RLIMIT_FSIZE ends it with SIGXFSZ or EFBIG where the cap on files comes first
        ("memory", "crash", "application"),
    ),
    Fatal(
        4,
        "many memfds",
        """
import os
held = []
while True:
    fd = os.memfd_create("bomb")
    held.append(fd)
    for _ in range(4):
        os.write(fd, b"x" * (8 << 20))
""",
        ("memory",),
    ),
    Fatal(8, "CPU spin", "while True:\n    pass\n", ("timeout",)),
    Fatal(8, "sleep for ever", "import time\ntime.sleep(1e6)\n", ("timeout",)),
    Fatal(8, "SIGSTOP itself", "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\n", ("timeout",)),
    Fatal(
        9,
        "trap every signal",
        """
import signal, time
for number in range(1, 65):
    try:
        signal.signal(number, lambda *_: None)
    except (OSError, ValueError):
        pass
while True:
    try:
        time.sleep(60)
    except BaseException:
        pass
""",
        ("timeout",),
    ),
    # Alone in its namespace there is nobody to hit (ESRCH); bubblewrap's init is out of its reach.
    Fatal(11, "kill(-1, SIGKILL)", "import os\nos.kill(-1, 9)\n", ("application",)),
    Fatal(
        14,
        "a frame of 4 GiB",
        """
import os
for fd in range(3, 1024):
    try:
        if fd != 0: os.write(fd, b"\\xff\\xff\\xff\\xff" + b"x" * 1000)
    except OSError:
        pass
import time
time.sleep(30)
""",
        ("protocol",),
    ),
    Fatal(11, "exit", "import os\nos._exit(7)\n", ("crash",)),
    Fatal(11, "segmentation fault", "import ctypes\nctypes.string_at(0)\n", ("crash",)),
]

# Bodies written straight to the frame pipe, each of which must end the session as `protocol`.
BAD_FRAMES = {
    "invalid UTF-8": rb'{"id":1,"success":true,"result":"\xff\xfe"}',
    "depth 100000": b'{"id":1,"success":true,"result":' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "NaN": b'{"id":1,"success":true,"result":NaN}',
    "duplicate keys": b'{"id":1,"id":2,"success":true,"result":1}',
    "a huge integer": b'{"id":1,"success":true,"result":' + b"9" * 5000 + b"}",
    "not JSON": b"hello",
    "an unknown type": b'{"type":"surprise","id":1}',
}
