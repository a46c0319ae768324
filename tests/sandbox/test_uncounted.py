"""What no cgroup counts, as the kernel lists it, and who is ended for it. More: `tests/hostile/test_uncounted.py`."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest

from bridgehold.sandbox.cgroups.v1 import socket_bytes, socket_share
from bridgehold.sandbox.launcher.control import LauncherClient
from bridgehold.sandbox.launcher.uncounted import MOST_LOCKS, Locks, parse_locks, tcp_sockets
from bridgehold.sandbox.values import Launched
from sandbox import narrow_launcher
from sandbox.launcher_support import KINDS, MIB, Machine, close, machine, python_spec, read_line
from sandbox.narrow_launcher import MOST


def counts(text: str) -> tuple[dict[int, int], dict[tuple[str, str], int]]:
    found: Locks = parse_locks(text)
    return dict(Counter(int(lock[3]) for lock in found.owned)), dict(found.flocks)


def test_the_kernels_lists_are_read() -> None:
    text = (
        "1: POSIX  ADVISORY  WRITE 71 00:1a:12 0 EOF\n"
        "1: -> POSIX  ADVISORY  WRITE 72 00:1a:12 0 EOF\n"
        "2: FLOCK  ADVISORY  WRITE 71 00:1a:13 0 EOF\n"
        "3: FLOCK  ADVISORY  READ 71 00:1a:13 0 EOF\n"
        "4: OFDLCK ADVISORY  READ -1 00:1a:13 0 EOF\n"
        "5: POSIX  ADVIS"
    )
    assert counts(text) == ({71: 1, 72: 1}, {("71", "00:1a:13"): 2})
    again = (
        text + "\n9: POSIX  ADVISORY  WRITE 71 00:1a:12 0 EOF\n10: POSIX  ADVISORY  WRITE 71 00:1a:12 7 7\n"
    )
    assert counts(again)[0] == {71: 2, 72: 1}  # shifted into view again by what others took
    assert counts("pos:\t0\nlock:\t1: FLOCK  ADVISORY  WRITE 71 00:1a:13 0 EOF\n") == (
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


@pytest.fixture(scope="module", params=KINDS)
def narrow(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with machine(request.param, program=(str(narrow_launcher.__file__),)) as made:
        yield made


HELPERS = """
import ctypes, fcntl, os, select, sys, time
def said():
    print("standing", flush=True)
    os.read(0, 1)
def by_mappings(path, count):
    '''Locks whose takers are gone, and which nothing but a mapping keeps.'''
    libc = ctypes.CDLL(None)
    libc.mmap.restype = ctypes.c_void_p
    libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t] + 3 * [ctypes.c_int] + [ctypes.c_long]
    for _ in range(count // 40):
        kept = [os.open(path, os.O_RDONLY) for _ in range(40)]
        for file in kept:
            assert libc.mmap(None, 4096, 1, 2, file, 0) != 2**64 - 1
        if os.fork() == 0:
            for file in kept:
                fcntl.flock(file, fcntl.LOCK_SH)
            os._exit(0)
        os.wait()
        for file in kept:
            os.close(file)
def owned(file, count):
    for made in range(count):
        fcntl.lockf(file, fcntl.LOCK_SH, 1, made * 2)
"""
BESIDE = "by_mappings('/usr/lib/os-release', 600)"
VICTIM = f"owned(os.open('/usr/lib/os-release', os.O_RDONLY), {MOST // 2})"
FLOODS = {
    "by fcntl, in a list that is too long": f"owned(os.open('/usr/lib/os-release', os.O_RDONLY), {4 * MOST})",
    "of an epoll": f"poll = select.epoll(); owned(poll.fileno(), {4 * MOST})",
    "descriptors that take long": """
ends = [os.eventfd(0) for _ in range(40)]
polls = [select.epoll() for _ in range(3)]
for end in ends:
    for place in range(100, 180):
        os.dup2(end, place)
        for poll in polls:
            poll.register(place, 1)
""",
}


def test_who_holds_too_much_is_ended_and_nobody_else(narrow: Machine) -> None:
    """Nobody's locks fill the list that the launcher reads; whoever holds some, and not too many, lives on."""

    async def begin(client: LauncherClient, code: str) -> tuple[Launched, list[int]]:
        return await client.launch(python_spec(f"{HELPERS}\n{code}\nsaid()"))

    async def run(client: LauncherClient) -> None:
        stay = [await begin(client, code) for code in (BESIDE, VICTIM)]
        for _, ends in stay:
            assert await read_line(ends[1]) == "standing\n"
        for what, code in FLOODS.items():
            launched, ends = await begin(client, code)
            report = await client.exited(launched.worker)
            assert report.cause == "memory", what
            assert ("descriptors" if "take long" in what else "locks of files") in report.reason, report
            close(ends)
        for launched, ends in stay:
            os.write(ends[0], b"x")
            assert (await client.exited(launched.worker)).cause == "exited"
            close(ends)

    narrow.drive(run, 110)


def test_locks_that_nothing_but_a_mapping_keeps_count_where_nobody_else_has_the_file_system(
    box: Machine,
) -> None:
    code = f"{HELPERS}\nopen('/tmp/own', 'w').write('x' * 5000)\nby_mappings('/tmp/own', {2 * MOST_LOCKS})\nsaid()"

    async def run(client: LauncherClient) -> None:
        launched, ends = await client.launch(python_spec(code, limits={"processes": 60}))
        report = await client.exited(launched.worker)
        assert (report.cause, "locks of files" in report.reason) == ("memory", True), report
        close(ends)

    box.drive(run, 110)
