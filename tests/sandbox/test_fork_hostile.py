"""A framework that attacks from its import on: in the zygote, in the forks, and in the moments between.

Each act is done by the code that a hostile dependency would bring. What must come of it: the zygote
is refused, or it dies with its sessions, or the act gains nothing; nobody else's session is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bridgehold.errors import AttestationError, BridgeholdError, ShortageError, ZygoteError
from bridgehold.sandbox.launcher.control import LauncherClient
from sandbox.fork_support import Nursery
from sandbox.launcher_support import Machine
from waiting import eventually, until

Act = Callable[[LauncherClient], Awaitable[None]]

AT_IMPORT = {
    "a helper": """
        import os, time
        if os.fork() == 0:
            time.sleep(60)
    """,
    "a daemon": """
        import os, time
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                time.sleep(60)
            os._exit(0)
        time.sleep(0.2)
    """,
    "a stopped child": """
        import os, signal
        if os.fork() == 0:
            os.kill(os.getpid(), signal.SIGSTOP)
    """,
    "a thread": """
        import threading, time
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
    """,
    "a pipe": """
        import os
        kept = os.pipe()
    """,
    "a file": "kept = open('/tmp/kept', 'w+')",
    "a file whose name is no text": r"""
        import os
        kept = os.open(b'/tmp/\xff\n\x1b[31m', os.O_CREAT | os.O_RDWR)
    """,
    "a folder whose name is no text": r"""
        import os
        os.mkdir(b'/tmp/\xff')
        os.chdir(b'/tmp/\xff')
    """,
    "a folder of /proc": """
        import os
        kept = os.open('/proc', os.O_RDONLY)
    """,
    "a socket": """
        import socket
        kept = socket.socketpair()
    """,
    "a pidfd of its init": """
        import ctypes
        kept = ctypes.CDLL(None).syscall(434, 1, 0)
        assert kept < 0  # refused: then it keeps something else
        import os
        kept = os.eventfd(0)
    """,
    "shared memory": """
        import mmap
        kept = mmap.mmap(-1, 4096, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
    """,
    "shared memory without a name": """
        import mmap, os
        descriptor = os.memfd_create('x')
        os.ftruncate(descriptor, 4096)
        kept = mmap.mmap(descriptor, 4096, mmap.MAP_SHARED)
        os.close(descriptor)
    """,
    "another folder": """
        import os
        os.chdir('/proc')
    """,
}
"""What it keeps, so that a later sibling could be reached through it."""


@pytest.mark.parametrize("act", AT_IMPORT)
def test_a_zygote_that_keeps_something_is_refused(swept: Machine, act: str) -> None:
    async def run(client: LauncherClient) -> None:
        zygote = await Nursery(swept, framework=AT_IMPORT[act]).zygote(client, attest=False)
        with pytest.raises(AttestationError):
            await zygote.attest()
        report = await client.exited(zygote.launched.worker)
        zygote.close()
        assert report.cause in ("killed", "zygote")
        with pytest.raises(ZygoteError):
            await client.fork(zygote.launched.worker, Nursery(swept).spec())

    swept.drive(run)


def test_a_zygote_may_map_a_file_of_any_name(swept: Machine) -> None:
    """The kernel keeps line feeds alone out of the names that it lists."""
    framework = r"""
        import ctypes, os
        mmap = ctypes.CDLL(None).mmap
        mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        for name in (b'/tmp/a\x0cb', b'/tmp/a\xe2\x80\xa8b', b'/tmp/a\x1c', b'/tmp/a\r\n\xff'):
            descriptor = os.open(name, os.O_CREAT | os.O_RDWR)
            os.write(descriptor, b'x' * 4096)
            mmap(None, 4096, 1, 2, descriptor, 0)  # it keeps no descriptor, as Python's own does
            os.unlink(name)
            os.close(descriptor)
    """

    async def run(client: LauncherClient) -> None:
        nursery = Nursery(swept, framework=framework)
        zygote = await nursery.zygote(client)
        first = await nursery.fork(client, zygote)
        assert await first.python("value = 1") == 1
        await first.end()
        await zygote.end()

    swept.drive(run)


IN_THE_WINDOW = {
    "says that it forked, and did not": """
        import os, sys
        def bare_fork():
            return 1
        def closing(*a):
            return None
        sys.modules['bridgehold_inner.kernel'].bare_fork = bare_fork
        receive = socket.recv_fds
        def recv_fds(*arguments):
            got = receive(*arguments)
            os.write(got[1][4], b'F')
            return got
        socket.recv_fds = recv_fds
        evil = real
    """,
    "keeps a file whose name is no text": r"""
        import os
        fork = sys.modules['bridgehold_inner.kernel'].bare_fork
        def bare_fork():
            os.open(b'/tmp/\xff', os.O_CREAT | os.O_RDWR)
            return fork()
        sys.modules['bridgehold_inner.kernel'].bare_fork = bare_fork
        evil = real
    """,
    "keeps the descriptors": """
        import os
        close = os.close
        def keep(descriptor):
            pass
        os.close = keep
        def evil(order, descriptors, parent, means):
            os.close = close
            real(order, descriptors, os.open('/dev/null', os.O_RDONLY), means)
    """,
    "starts a thread": """
        import sys, threading, time
        kernel = sys.modules['bridgehold_inner.kernel']
        fork = kernel.bare_fork
        def bare_fork():
            pid = fork()
            if pid:
                try:
                    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
                except RuntimeError:
                    os.pipe()
            return pid
        kernel.bare_fork = bare_fork
        evil = real
    """,
    "maps shared memory": """
        import mmap, sys
        kernel = sys.modules['bridgehold_inner.kernel']
        fork = kernel.bare_fork
        kept = []
        def bare_fork():
            kept.append(mmap.mmap(-1, 4096, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS))
            return fork()
        kernel.bare_fork = bare_fork
        evil = real
    """,
    "leaves a helper in the session's cgroup": """
        import os, time
        def evil(order, descriptors, parent, means):
            os.read(parent, 1)
            frames_in, frames_out, log, gate, report, output, *others = descriptors
            os.write(report, b'F'); os.read(gate, 1)
            for door in others[7:]:
                os.write(door, b'0')
            os.write(report, b'M'); os.read(gate, 1)
            if os.fork() == 0:
                os.close(report)
                time.sleep(60)
                os._exit(0)
            skip = sys.modules['bridgehold_inner.fork']
            skip._pass = lambda *a: None
            real(order, [*descriptors[:6], *others[:7]], os.open('/dev/null', os.O_RDONLY), means)
    """,
    "writes rubbish": """
        import os
        def evil(order, descriptors, parent, means):
            os.read(parent, 1)
            os.write(descriptors[4], b'JJJJ')
            os.read(descriptors[3], 1)
    """,
}
"""What it does in the moments in which it runs: `evil` takes the place of `become_worker`."""
PATCH = """
import os, socket, sys
module = sys.modules['bridgehold_inner.fork']
real = module.become_worker
{code}
count = [0]
def once(*arguments):
    evil(*arguments)
module.become_worker = once
"""


def patched(code: str) -> str:
    import textwrap

    return PATCH.format(code=textwrap.dedent(code))


def biding(act: str) -> str:
    """A framework that forks its first session as it should, and acts at the second."""
    return f"""
import ctypes, mmap, resource, socket, threading, time  # now: it arms itself while it may be looked at
ORDERS = [0]
def arm():
    exec(compile({patched(act)!r}, "evil", "exec"), {{}})
_receive = socket.recv_fds
def _recv_fds(*arguments):
    ORDERS[0] += 1
    if ORDERS[0] == 2:
        socket.recv_fds = _receive
        arm()
        return socket.recv_fds(*arguments)
    return _receive(*arguments)
socket.recv_fds = _recv_fds
"""


@pytest.mark.parametrize("act", IN_THE_WINDOW)
def test_a_surprise_ends_the_zygote_and_its_sessions(swept: Machine, act: str) -> None:
    """The first session is forked by a zygote that bides its time; at the second it acts."""

    async def run(client: LauncherClient) -> None:
        other = await Nursery(swept, framework="", tenant="other").zygote(client)
        bystander = await Nursery(swept, framework="", tenant="other").fork(client, other)
        nursery = Nursery(swept, framework=biding(IN_THE_WINDOW[act]))
        zygote = await nursery.zygote(client)
        first = await nursery.fork(client, zygote)
        assert await first.python("value = 1") == 1
        with pytest.raises((ZygoteError, AttestationError, AssertionError)):
            await nursery.fork(client, zygote)
        for guest in (first, zygote):
            report = await asyncio.wait_for(client.exited(guest.launched.worker), 30)
            assert report.cause == "zygote"
            assert report.reason
            guest.close()
        assert await bystander.python("value = 2") == 2  # another tenant's does not notice
        await bystander.attest()
        await bystander.end()
        await other.end()

    swept.drive(run)


FAILING = {
    "ends instead": """
        import os
        def evil(order, descriptors, parent, means):
            os._exit(0)
    """,
    "forks twice": """
        import os
        def evil(order, descriptors, parent, means):
            os.fork()  # there is no room
            real(order, descriptors, parent, means)
    """,
    "is killed, as a machine without memory does": """
        import os
        def evil(order, descriptors, parent, means):
            os.read(parent, 1)
            os.kill(os.getpid(), 9)
    """,
    "is killed where it may join": """
        import os
        kernel = sys.modules['bridgehold_inner.kernel']
        kernel.setns = lambda *a: os.kill(os.getpid(), 9)
        evil = real
    """,
    "can't fork": """
        kernel = sys.modules['bridgehold_inner.kernel']
        def bare_fork():
            raise BlockingIOError(11, 'no processes')
        kernel.bare_fork = bare_fork
        evil = real
    """,
    "has no descriptors left": """
        def pipe():
            raise OSError(23, 'no files')
        os.pipe = pipe
        evil = real
    """,
    "can't enter its cgroup": """
        write = os.write
        def refused(descriptor, data):
            if data in (b'0', b'M'):  # v1: the fork moves itself; v2: it was moved
                raise OSError(12, 'no memory')
            return write(descriptor, data)
        os.write = refused
        evil = real
    """,
    "can't join": """
        kernel = sys.modules['bridgehold_inner.kernel']
        def setns(*a):
            raise OSError(28, 'no room')
        kernel.setns = setns
        evil = real
    """,
    "can't fork again": """
        def fork():
            raise BlockingIOError(11, 'no processes')
        os.fork = fork
        evil = real
    """,
    "says so and stays": """
        import os, time
        def evil(order, descriptors, parent, means):
            os.read(parent, 1)
            os.write(descriptors[4], b'E11')
            os.close(descriptors[4])
            time.sleep(60)
    """,
}
"""What makes a fork fail, or what it says of it. Errors of the machine come first as it makes them."""


@pytest.mark.parametrize("act", FAILING)
def test_a_fork_that_fails_costs_its_own_start_and_nothing_else(swept: Machine, act: str) -> None:  # ABUSE 50
    """What the machine may do to a fork is no surprise of its zygote's: that goes on, if it is what it was."""

    async def run(client: LauncherClient) -> None:
        nursery = Nursery(swept, framework=biding(FAILING[act]))
        zygote = await nursery.zygote(client)
        first = await nursery.fork(client, zygote)
        expected = ZygoteError if act.startswith(("ends", "is killed")) else ShortageError
        for _ in range(2):
            with pytest.raises(expected) as caught:
                await client.fork(zygote.launched.worker, nursery.spec())
            assert caught.value.retry in ("same", "later")
        assert await first.python("value = 1") == 1
        await first.attest()
        await first.end()

        async def alone() -> bool:  # what it left is killed
            return (await client.usage(zygote.launched.worker)).processes == 3

        await eventually(alone)
        await zygote.end()

    swept.drive(run)


SIGNALS_ITSELF = """
    import os, signal
    kernel = sys.modules['bridgehold_inner.kernel']
    setns = kernel.setns
    calls = [0]
    def late(*arguments):
        calls[0] += 1
        if calls[0] == 7:  # the last: its stop is one more than are gone through with
            signal.signal(signal.SIGUSR1, signal.SIG_IGN)
            for _ in range(994):
                os.kill(os.getpid(), signal.SIGUSR1)
        return setns(*arguments)
    kernel.setns = late
    evil = real
"""


def test_a_fork_that_stops_a_thousand_times_is_let_go_and_leaves_nothing(swept: Machine) -> None:
    """Who stays traced when it has joined can't be reaped by anybody: its place were taken for ever."""

    async def run(client: LauncherClient) -> None:
        nursery = Nursery(swept, framework=biding(SIGNALS_ITSELF))
        zygote = await nursery.zygote(client)
        first = await nursery.fork(client, zygote)
        second = await nursery.fork(client, zygote)
        for one in (first, second):
            assert await one.python("value = 1") == 1
            await one.end()
        await zygote.end()

    swept.drive(run)


DAWDLERS = {
    "keeps a vfork child": """
        import ctypes, os, time
        kernel = sys.modules['bridgehold_inner.kernel']
        receive = socket.recv_fds
        def recv_fds(*arguments):
            got = receive(*arguments)
            if ctypes.CDLL(None).syscall(56, 0x4000 | 17, 0, 0, 0, 0) == 0:
                os.write(got[1][4], b'F')
                time.sleep(60)
                os._exit(0)
            return got
        socket.recv_fds = recv_fds
        evil = real
    """,
    "never forks": """
        import time
        kernel = sys.modules['bridgehold_inner.kernel']
        kernel.bare_fork = lambda: time.sleep(60)
        evil = real
    """,
    "stays at its gate": """
        import time
        def evil(order, descriptors, parent, means):
            os.read(parent, 1)
            os.write(descriptors[4], b'F')
            time.sleep(60)
    """,
    "stays in its cgroup": """
        import time
        kernel = sys.modules['bridgehold_inner.kernel']
        kernel.setns = lambda *a: time.sleep(60)
        evil = real
    """,
    "stays beside its worker": """
        import time
        leave = os._exit
        os._exit = lambda status: (time.sleep(60), leave(status))
        evil = real
    """,
    "stops itself": """
        kernel = sys.modules['bridgehold_inner.kernel']
        fork = kernel.bare_fork
        def bare_fork():
            os.kill(os.getpid(), 19)
            return fork()
        kernel.bare_fork = bare_fork
        evil = real
    """,
    "signals itself without end": """
        import signal
        kernel = sys.modules['bridgehold_inner.kernel']
        signal.signal(signal.SIGUSR1, lambda *a: None)
        def bare_fork():
            while True:
                os.kill(os.getpid(), signal.SIGUSR1)
        kernel.bare_fork = bare_fork
        evil = real
    """,
    "signals itself while it joins": """
        import signal
        kernel = sys.modules['bridgehold_inner.kernel']
        signal.signal(signal.SIGUSR1, lambda *a: None)
        def setns(*a):
            while True:
                os.kill(os.getpid(), signal.SIGUSR1)
        kernel.setns = setns
        evil = real
    """,
    "maps more than can be judged": """
        import mmap
        kernel = sys.modules['bridgehold_inner.kernel']
        fork = kernel.bare_fork
        kept = []
        def bare_fork():
            for number in range(30000):
                kept.append(mmap.mmap(-1, 4096, prot=1 + number % 2 * 2, flags=0x22))
            return fork()
        kernel.bare_fork = bare_fork
        evil = real
    """,
}
"""How it has the launcher wait for it, at each step of a fork."""
UNRESOLVED = ("never forks", "stays at its gate", "stays in its cgroup")
"""Those that last as long as a fork may: others start meanwhile, not after."""


@pytest.mark.parametrize("act", DAWDLERS)
def test_a_dawdler_costs_its_own_tenant_and_the_launcher_answers_others(swept: Machine, act: str) -> None:
    """ABUSE 54. What others wait is the launcher's own work: the hostile part would be seconds."""

    async def run(client: LauncherClient) -> None:
        friend = Nursery(swept, framework="", tenant="other")
        other = await friend.zygote(client)
        nursery = Nursery(swept, framework=biding(DAWDLERS[act]))
        zygote = await nursery.zygote(client)
        first = await nursery.fork(client, zygote)
        dawdling = asyncio.ensure_future(nursery.fork(client, zygote))
        waited, spent = [], psutil.Process(swept.process.pid).cpu_times()
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            began = time.monotonic()
            await client.usage(other.launched.worker)
            waited.append(time.monotonic() - began)
            await asyncio.sleep(0.005)
        bystander = await friend.fork(client, other)  # and starts go on
        assert act not in UNRESOLVED or not dawdling.done()
        assert sorted(waited)[len(waited) // 2] < 0.05
        assert max(waited) < 1.9  # on a machine that others use too; the least that could hold it is 2 s
        now = psutil.Process(swept.process.pid).cpu_times()
        assert now.user + now.system - spent.user - spent.system < 0.5  # of 1.5 s
        with contextlib.suppress(BridgeholdError):
            await zygote.end()
        with contextlib.suppress(BridgeholdError, AssertionError):
            await (await dawdling).end()
        first.close()
        await bystander.end()
        await other.end()

    swept.drive(run)


WAKING = """
    import ctypes, os, signal, struct, time

    stamps = []
    signal.signal(signal.SIGCONT, lambda *a: stamps.append(time.monotonic()))
    libc = ctypes.CDLL(None, use_errno=True)
    timer = ctypes.c_void_p()
    event = ctypes.create_string_buffer(struct.pack('=Qii', 0, signal.SIGCONT, 0) + bytes(64))
    assert libc.timer_create(1, event, ctypes.byref(timer)) == 0
    every = struct.pack('=qqqq', 0, 5_000_000, 0, 5_000_000)
    assert libc.timer_settime(timer, 0, every, None) == 0
    zygote = os.getpid()

    def wake():
        for _ in range(50):
            os.kill(zygote, signal.SIGCONT)
            time.sleep(0.001)
    os.register_at_fork(before=wake)  # in each fork, while its zygote should stand
"""


def test_a_zygote_that_is_held_does_not_wake_itself(box: Machine) -> None:  # ABUSE 54
    """Neither by a timer whose signal is SIGCONT, nor by its own fork, does it run between two forks."""

    async def run(client: LauncherClient) -> None:
        nursery = Nursery(box, framework=WAKING)
        zygote = await nursery.zygote(client)
        first = await nursery.fork(client, zygote)
        since = time.monotonic()
        await asyncio.sleep(0.5)
        until = time.monotonic()
        second = await nursery.fork(client, zygote)
        stamps = await second.python("value = framework.stamps")
        assert [stamp for stamp in stamps if since < stamp < until] == []
        assert any(stamp < since for stamp in stamps)  # it did run while nobody held it
        for guest in (first, second):
            await guest.end()
        await zygote.end()

    box.drive(run)


IMPOSTORS = {
    "stays in the zygote's namespaces": """
        def evil(order, descriptors, parent, means):
            os.read(parent, 1)
            frames_in, frames_out, log, gate, report, output, *others = descriptors
            os.write(report, b'F'); os.read(gate, 1)
            for door in others[7:]:
                os.write(door, b'0')
            os.write(report, b'M'); os.read(gate, 1)
            if os.fork():
                os._exit(0)
            os.write(report, b'J')
            os.close(report)
            sys.modules['bridgehold_inner.boot'].set_path('/bridge')
            sys.modules['bridgehold_inner.boot'].serve(frames_in, frames_out)
    """,
    "keeps its capabilities": """
        kernel = sys.modules['bridgehold_inner.kernel']
        kernel.drop_capabilities = lambda: None
        evil = real
    """,
    "keeps the zygote's uid": """
        os.setresuid = lambda *a: None
        evil = real
    """,
    "keeps the zygote's gid": """
        os.setresgid = lambda *a: None
        evil = real
    """,
    "keeps its limits": """
        import resource
        resource.setrlimit = lambda *a: None
        evil = real
    """,
    "leaves the network as it was": """
        kernel = sys.modules['bridgehold_inner.kernel']
        setns, calls = kernel.setns, []
        def some(descriptor, kind):
            calls.append(descriptor)
            if len(calls) != 4:
                setns(descriptor, kind)
        kernel.setns = some
        evil = real
    """,
    "leaves a helper inside with capabilities": """
        import time
        kernel = sys.modules['bridgehold_inner.kernel']
        drop = kernel.drop_capabilities
        def fork_first():
            if os.fork() == 0:
                os.closerange(3, 256)
                time.sleep(60)
            drop()
        kernel.drop_capabilities = fork_first
        evil = real
    """,
}
"""Forks that are not what they should be when the host asks for their proof."""


@pytest.mark.parametrize("act", IMPOSTORS)
def test_an_impostor_is_never_green(swept: Machine, act: str) -> None:
    async def run(client: LauncherClient) -> None:
        nursery = Nursery(swept, framework=patched(IMPOSTORS[act]))
        zygote = await nursery.zygote(client)

        async def prove() -> None:
            guest = await nursery.fork(client, zygote, attest=False)
            await guest.attest()

        with pytest.raises((BridgeholdError, AssertionError)):
            await prove()
        with contextlib.suppress(BridgeholdError):  # most died of it already
            await zygote.end()

    swept.drive(run)


JOINER = """
    import ctypes, errno, os, struct, threading

    libc = ctypes.CDLL(None, use_errno=True)
    found = []
    def tell(where, result):
        found.append((where, 'DONE' if result >= 0 else errno.errorcode[ctypes.get_errno()]))
    def join(where, descriptor):
        tell(where, libc.setns(descriptor, 0))
    def filters(where):
        code = struct.pack('<HBBI', 6, 0, 0, 0x7FFF0000)
        text = ctypes.create_string_buffer(code)
        program = ctypes.create_string_buffer(struct.pack('HxxxxxxQ', 1, ctypes.addressof(text)))
        tell(where + ': filter', libc.prctl(22, 2, program, 0, 0))
        tell(where + ': filter, new call', libc.syscall(317, 1, 0, program))
    filters('import')
    join('import', os.open('/proc/self/ns/user', os.O_RDONLY | os.O_CLOEXEC))
    os.closerange(3, 16)  # what it opened here would be a surprise
"""
OVERJOINER = (
    JOINER
    + """
    import socket, sys
    fork, kernel = sys.modules['bridgehold_inner.fork'], sys.modules['bridgehold_inner.kernel']
    allowed, joined, handed, receive, bare = kernel.setns, [], [], socket.recv_fds, kernel.bare_fork
    def recv_fds(*arguments):
        got = receive(*arguments)
        handed[:] = got[1][5:12]
        return got
    def bare_fork():
        join('zygote', handed[0])
        pid = bare()
        if pid:
            join('zygote while its fork joins', handed[0])
        else:
            join('fork before its gate', handed[0])
        return pid
    def setns(descriptor, kind):
        if len(joined) == 2:  # a user or mount namespace is for a process of one thread
            beside = threading.Thread(target=join, args=('beside', descriptor))
            beside.start()
            beside.join()
            told, tell_child = os.pipe()
            if os.fork() == 0:
                join('child', descriptor)
                os.write(tell_child, found[-1][1].encode())
                os._exit(0)
            found.append(('child', os.read(told, 16).decode()))
        allowed(descriptor, kind)
        joined.append(descriptor)
        if len(joined) == 7:
            join('one more', descriptor)
            filters('joined')
    close = kernel.close_all_but
    def late(keep):
        join('second fork', joined[0])
        close(keep)
    socket.recv_fds, kernel.bare_fork, kernel.setns, kernel.close_all_but = recv_fds, bare_fork, setns, late
"""
)


def test_a_zygote_that_was_taken_over_has_no_filter_but_the_first_and_joins_nothing_by_itself(
    swept: Machine,
) -> None:  # ABUSE 20, 41, 49
    """Its filter was there before its first instruction. A fork makes seven calls that the launcher counts;
    its zygote, its threads, its children and what becomes the worker make none."""

    async def run(client: LauncherClient) -> None:
        nursery = Nursery(swept, framework=OVERJOINER)
        zygote = await nursery.zygote(client)
        guest = await nursery.fork(client, zygote)
        await guest.python("framework.filters('session')")
        await guest.python("import os; framework.join('session', os.open('/proc/self/ns/net', os.O_RDONLY))")
        found = dict(await guest.python("value = framework.found"))
        loads = {where: answer for where, answer in found.items() if "filter" in where}
        assert loads == {
            **dict.fromkeys((f"{at}: filter" for at in ("import", "joined", "session")), "EINVAL"),
            **dict.fromkeys((f"{at}: filter, new call" for at in ("import", "joined", "session")), "ENOSYS"),
        }
        joins = {where: answer for where, answer in found.items() if where not in loads}
        places = ("import", "zygote", "fork before its gate", "beside", "child", "one more")
        assert joins == dict.fromkeys((*places, "second fork", "session"), "ENOSYS")
        await zygote.end()

    swept.drive(run)


PEEPER = """
    import ctypes, os, socket

    found = []
    def look(where):
        for name in os.listdir('/proc') if os.path.isdir('/proc') else []:
            if name.isdigit() and int(name) not in (os.getpid(), os.getppid(), 1):
                try:
                    with open(f'/proc/{name}/environ', 'rb') as file:
                        found.append((where, name, file.read(100)))
                    with open(f'/proc/{name}/mem', 'rb') as file:
                        found.append((where, name, 'memory'))
                    os.open(f'/proc/{name}/ns/user', os.O_RDONLY)
                    found.append((where, name, 'user namespace'))
                except OSError as error:
                    pass
        libc = ctypes.CDLL(None, use_errno=True)
        for pid in range(1, 200):
            if pid != os.getpid() and libc.syscall(434, pid, 0) >= 0:
                found.append((where, pid, 'pidfd'))
    tried = []
    for path in ('/proc/1/mem', '/proc/1/environ', '/proc/1/maps', '/proc/1/root/etc'):
        try:
            os.close(os.open(path, os.O_RDWR if path.endswith('mem') else os.O_RDONLY))
            tried.append(path)
        except OSError:
            pass
    child = ctypes.CDLL(None).syscall(56, 0x2000 | 17, 0, 0, 0, 0)  # CLONE_PTRACE: the launcher's tracee too
    if child == 0:
        os._exit(0)
    if child > 0:
        tried.append('CLONE_PTRACE')
    pipe = os.pipe
    def window():
        look('window')
        return pipe()
    os.pipe = window
    os.register_at_fork(
        before=lambda: look('first fork'), after_in_child=lambda: look('second fork')
    )
"""


def test_what_a_patient_zygote_can_see_of_its_sessions(box: Machine) -> None:
    """At import, in each window and in each fork it looks for others' memory, environment and handles."""

    async def run(client: LauncherClient) -> None:
        nursery = Nursery(box, framework=PEEPER)
        zygote = await nursery.zygote(client)
        guests = [await nursery.fork(client, zygote) for _ in range(4)]
        for guest in guests:
            assert await guest.python("value = framework.found") == []
            assert await guest.python("value = framework.tried") == []
        for guest in guests:
            await guest.end()
        await zygote.end()

    box.drive(run)


def test_a_siblings_everything_is_out_of_reach(box: Machine) -> None:
    """Two forks of one zygote, alive at once: no memory, file, port, socket, signal or key of the other's."""

    async def run(client: LauncherClient) -> None:
        nursery = Nursery(box)
        zygote = await nursery.zygote(client)
        one, two = await nursery.fork(client, zygote), await nursery.fork(client, zygote)
        await one.python(
            """
            import os, socket, tempfile
            framework.secret = 'of-one'
            os.environ['SECRET'] = 'of-one'
            for place in ('/tmp', '/scratch', '/dev/shm'):
                open(place + '/of-one', 'w').write('of-one')
            framework.tcp = socket.create_server(('127.0.0.1', 5555))
            framework.unix = socket.socket(socket.AF_UNIX)
            framework.unix.bind('\\0of-one')
            framework.unix.listen()
            """
        )
        assert await two.python("value = getattr(framework, 'secret', None)") is None
        assert await two.python("import os; value = os.environ.get('SECRET')") is None
        assert (
            await two.python(
                """
            import os, signal, socket
            value = []
            for place in ('/tmp', '/scratch', '/dev/shm'):
                value += os.listdir(place)
            for attempt in (
                lambda: socket.create_connection(('127.0.0.1', 5555), 1),
                lambda: socket.socket(socket.AF_UNIX).connect('\\0of-one'),
            ):
                try:
                    attempt()
                    value.append('connected')
                except OSError:
                    pass
            for pid in range(3, 400):
                if str(pid) not in os.listdir('/proc/self/task'):
                    try:
                        os.kill(pid, 0)
                        value.append(pid)
                    except ProcessLookupError:
                        pass
            """
            )
            == []
        )
        with pytest.raises(AssertionError, match="ProcessLookupError"):  # there is nobody else to kill
            await two.python("import os; os.kill(-1, 9)")
        assert await one.python("value = framework.secret") == "of-one"
        await one.end()
        assert await two.python("value = 3") == 3
        await two.end()
        await zygote.end()

    box.drive(run)


def test_a_bomb_in_one_fork_leaves_its_siblings_alone(box: Machine) -> None:
    async def run(client: LauncherClient) -> None:
        nursery = Nursery(box)
        zygote = await nursery.zygote(client)
        guests = [await nursery.fork(client, zygote) for _ in range(3)]
        bombs = [
            guests[0].python(
                """
                import os, time
                value = 0
                try:
                    while True:
                        if os.fork() == 0:
                            time.sleep(60)
                        value += 1
                except OSError as error:
                    value = [value, error.errno]
                """
            ),
            guests[1].python("value = len(bytearray(1 << 30))"),
        ]
        count, error = await bombs[0]
        assert error == 11
        assert count < 60
        assert (
            await guests[2].python(
                "import os; pid = os.fork(); pid or os._exit(0); value = os.waitpid(pid, 0)[1]"
            )
            == 0
        )
        with pytest.raises(EOFError):
            await bombs[1]
        assert (await client.exited(guests[1].launched.worker)).cause == "memory"
        assert await guests[2].python("value = 4") == 4
        fourth = await nursery.fork(client, zygote)  # and the zygote forks on
        assert await fourth.python("value = 5") == 5
        guests[1].close()
        for guest in (guests[0], guests[2], fourth):
            await guest.end()
        await zygote.end()

    box.drive(run)


@pytest.fixture
def swept(box: Machine) -> Iterator[Machine]:
    """The launcher; after the test it has no child that it did not have before."""
    before = children(box.process.pid)
    yield box
    until(lambda: children(box.process.pid) <= before)


def children(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
