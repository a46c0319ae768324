"""What no cgroup counts: refused, bounded, or the end of whoever holds it. Tried from inside real sandboxes."""

from __future__ import annotations

from bridgehold.sandbox.cgroups.v1 import socket_bytes, socket_share
from bridgehold.sandbox.uncounted import lock_owners, tcp_sockets
from sandbox.launcher_support import MIB

LOCKS = """
import fcntl, os, time
here = os.open("/tmp/locked", os.O_RDWR | os.O_CREAT)
made = 0
def lock(count):
    global made
    for _ in range(count):
        made += 1
        fcntl.lockf(here, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 1 << 24 - made)
"""


def test_the_kernels_lists_are_read() -> None:
    text = (
        "1: POSIX  ADVISORY  WRITE 71 00:1a:12 0 EOF\n"
        "1: -> POSIX  ADVISORY  WRITE 72 00:1a:12 0 EOF\n"
        "2: FLOCK  ADVISORY  WRITE 71 00:1a:13 0 EOF\n"
        "3: OFDLCK ADVISORY  READ -1 00:1a:13 0 EOF\n"
        "4: POSIX  ADVIS"
    )
    assert lock_owners(text) == {71: 2, 72: 1}
    stat = "sockets: used 192\nTCP: inuse 5 orphan 0 tw 10 alloc 34 mem 5\nUDP: inuse 0 mem 102\n"
    assert (tcp_sockets(stat, "inuse"), tcp_sockets(stat, "alloc")) == (5, 34)
    assert tcp_sockets("TCP6: inuse 7\n", "inuse") == 7
    assert tcp_sockets("", "inuse") == 0
    assert (socket_bytes(16 * MIB), socket_bytes(128 * MIB), socket_bytes(8 << 30)) == (
        4 * MIB,
        16 * MIB,
        32 * MIB,
    )
    assert socket_share((1, 2, 1000)) == 500 * 4096
