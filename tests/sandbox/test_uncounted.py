"""What no cgroup counts, as the kernel lists it (pure). What comes of it: `tests/hostile/test_uncounted.py`."""

from __future__ import annotations

from bridgehold.sandbox.cgroups.v1 import socket_bytes, socket_share
from bridgehold.sandbox.launcher.uncounted import parse_locks, tcp_sockets
from sandbox.launcher_support import MIB


def test_the_kernels_lists_are_read() -> None:
    text = (
        "1: POSIX  ADVISORY  WRITE 71 00:1a:12 0 EOF\n"
        "1: -> POSIX  ADVISORY  WRITE 72 00:1a:12 0 EOF\n"
        "2: FLOCK  ADVISORY  WRITE 71 00:1a:13 0 EOF\n"
        "3: FLOCK  ADVISORY  READ 71 00:1a:13 0 EOF\n"
        "4: OFDLCK ADVISORY  READ -1 00:1a:13 0 EOF\n"
        "5: POSIX  ADVIS"
    )
    assert parse_locks(text) == ({71: 1, 72: 1}, {("71", "00:1a:13"): 2})
    again = (
        text + "\n9: POSIX  ADVISORY  WRITE 71 00:1a:12 0 EOF\n10: POSIX  ADVISORY  WRITE 71 00:1a:12 7 7\n"
    )
    assert parse_locks(again).owned == {71: 2, 72: 1}  # shifted into view again by what others took
    assert parse_locks("pos:\t0\nlock:\t1: FLOCK  ADVISORY  WRITE 71 00:1a:13 0 EOF\n") == (
        {},
        {("71", "00:1a:13"): 1},
    )
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
