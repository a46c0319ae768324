"""One zygote, as the launcher holds it: still but for the moments in which it forks.

It is hostile as soon as it has imported something. So the kernel keeps it from acting: its cgroup's
process limit leaves no room for a helper or a thread (and for exactly one fork while one is wanted),
it is held in between (`hold`: no timer, signal or child of its own wakes it while namespaces are made
under its uid), and its /proc is covered, so that it can name no session (`template`). Before and after
each fork its cgroup must hold exactly bubblewrap's two processes and one zygote with one thread, with
the descriptors that the launcher gave it. Anything else is a `ZygoteChangedError`, and the end of it and of
its sessions. Nothing here waits for it: what is due once it stands is asked for again, until it is late.

bubblewrap's init is out of its reach: a Landlock domain that it entered before its first import
keeps it from opening the memory of what is outside (`inner.kernel.enter_own_domain`).
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import signal
import socket
import time
from collections import deque

import msgspec

from bridgehold.errors import UnsupportedError, ZygoteError
from bridgehold.sandbox import procfs, syscalls
from bridgehold.sandbox.attest.observe import namespaces, parse_status
from bridgehold.sandbox.cgroups import SessionCgroup
from bridgehold.sandbox.fork.template import Template
from bridgehold.sandbox.launch.hold import Hold, Reaper
from bridgehold.sandbox.launch.running import Running
from bridgehold.sandbox.values import SandboxSpec

_STOP_SECONDS = 2.0
_REST_SECONDS = 5.0
"""After a fork that failed: for letting go of what that was handed, on a busy machine. Then it has to stand
as it was; nobody but its own tenant waits for it."""
_QUICK_LOOKS, _QUICK_SECONDS = 8, 0.00005
"""It stops within this, where nothing keeps it: looked for once, and then at each turn of the loop."""
_HELD = "t"
_MAX_DESCRIPTORS = 32
_SHARED_WRITABLE = ("rw-s", "rwxs", "-w-s", "-wxs")
_MAX_MAPS_BYTES = 512 * 1024
"""Some five thousand mappings of files, which take the launcher five milliseconds to judge; twice as many
would take ten times as long."""


@functools.cache
def _exits_are_told() -> bool:
    return syscalls.exits_are_told()


class ZygoteChangedError(ZygoteError):
    """A zygote is not what it was when it was attested; it must end, and its sessions with it."""


class ForkOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the zygote is told of one fork, beside the descriptors. Nothing of the tenant's."""

    uid: int
    """In the session's user namespace."""
    rlimits: dict[str, int]
    """Resource number → value, for the fork to set; the attestation sees whether it did."""
    environment: dict[str, str]
    working_directory: str
    threads: int


class Zygote:
    """A warm process to fork from. `service` drives it; one fork is under way at a time."""

    def __init__(self, spec: SandboxSpec, running: Running, cgroup: SessionCgroup, uid: int) -> None:
        self.spec = spec
        self.uid = uid
        self.running = running
        self.busy = ""
        """The worker that is being forked."""
        self.unclear = False
        """A fork of it has failed, and what that left is not cleared away yet."""
        self.spare = ""
        """The worker that is made ahead, and stands where the zygote is needed."""
        self.queue: deque[str] = deque()
        self.sessions: set[str] = set()
        self.forks = 0
        self.pid = 0
        self.pid_fd = -1
        self.template = -1
        """The mount namespace that its sessions begin with."""
        self._start = 0
        self._cgroup = cgroup
        if running.fork_socket is None:
            raise ValueError("a sandbox that was not launched as a zygote")
        self._socket = running.fork_socket
        self._socket.setblocking(False)
        self._hold: Hold | None = None
        self._late = self._rested = 0.0
        """When it must stand, once it was told to stop."""
        self._quick = 0
        """How many looks without a turn of the loop in between it may still have."""
        self._resting = False
        """It runs on for a moment, to let go of what a fork was handed that ended at once."""
        self._taking: Template | None = None
        self.left: set[int] = set()
        """Children of ours that have nothing more to do for it, for the launcher to reap."""
        self._own: frozenset[int] = frozenset()
        self.namespaces: dict[str, int] = {}

    @property
    def settled(self) -> bool:
        """Whether it stands and can be forked from."""
        return self.template >= 0

    @property
    def helper(self) -> int:
        """A child of ours that takes the mounts; 0: there is none."""
        return self._taking.helper if self._taking is not None else 0

    def settle(self, pid: int) -> None:
        """After its attestation: know it, leave no room beside it, and have it stop. `settle_in` goes on.

        Raises `OSError`, `ZygoteChangedError`.
        """
        self.pid = pid
        try:
            self.pid_fd = procfs.open_process(pid, lambda: self._has(pid))
        except ProcessLookupError as error:
            raise ZygoteError("the zygote has ended") from error
        self._start = procfs.start_time(pid)
        self._own = frozenset({self.running.monitor, self.running.init, pid})
        self.namespaces = namespaces(pid)
        self._cgroup.limit_processes(len(self._own))
        try:
            self.running.hold = self._hold = Hold(pid)
            procfs.must_live(self.pid_fd)
            if not _exits_are_told():
                self.running.reaper = Reaper(self.running.init)
        except ProcessLookupError as error:
            raise ZygoteError("the zygote has ended") from error
        except PermissionError as error:
            raise UnsupportedError(
                "a zygote can't be held: this machine refuses ptrace to the launcher",
                hint="Allow it (kernel.yama.ptrace_scope below 3), or use the cold start.",
            ) from error
        self.stop()

    def settle_in(self) -> bool:
        """It stands: take what its sessions begin with, step by step, and look; whether that is done.

        Raises `ZygoteChangedError`, `UnsupportedError`.
        """
        if self._taking is None:
            self._taking = Template(self.pid_fd)
        template = self._taking.step()
        if template is None:
            return False
        self._give_up_template()
        try:
            self.check()
            self._check_folders()
        except BaseException:
            os.close(template)
            raise
        self.template = template
        return True

    def _give_up_template(self) -> None:
        if self._taking is not None:
            self.left.add(self._taking.close())
            self._taking = None

    def stop(self) -> None:
        """Have it stop; `stands` tells when it does."""
        self._late = time.monotonic() + _STOP_SECONDS
        self._quick = _QUICK_LOOKS
        self._held.stop()

    @property
    def stands(self) -> bool:
        """Whether it is held still. Raises `ZygoteChangedError` where it should have been for a while."""
        while not (stands := self._held.stands) and self._quick:
            self._quick -= 1
            time.sleep(_QUICK_SECONDS)
        if stands:
            return True
        if self._held.gone:
            raise ZygoteError("the zygote has ended")
        if time.monotonic() > self._late:
            raise ZygoteChangedError("the zygote does not stop")
        return False

    @property
    def _held(self) -> Hold:
        if self._hold is None:
            raise ZygoteError("a zygote that is not held")
        return self._hold

    def attend(self) -> None:
        """While it is to run: pass its signals on."""
        self._held.attend()

    def look(self) -> None:
        """Before a fork: it stands as it was left, and its cgroup holds what it held.

        Raises `ZygoteError` where it doesn't stand: nothing but its death ends a hold.
        """
        found = frozenset(self._cgroup.processes())
        if found - self._own:
            raise ZygoteChangedError(f"before a fork: {len(found)} processes in its cgroup")
        try:
            state = procfs.stat(self.pid)[0]
        except (FileNotFoundError, ProcessLookupError):
            state = ""
        if found != self._own or state != _HELD:
            raise ZygoteError("the zygote has ended")

    def check(self) -> None:
        """After a fork: raise `ZygoteChangedError` unless it is in everything what was attested."""
        found = frozenset(self._cgroup.processes())
        if found != self._own:
            raise ZygoteChangedError(
                f"the zygote's cgroup holds {len(found)} processes, not its own {len(self._own)}"
            )
        if procfs.start_time(self.pid) != self._start:
            raise ZygoteChangedError("another process has the zygote's pid")
        threads = int(parse_status(procfs.read(f"/proc/{self.pid}/status"))["Threads"])
        if threads != 1:
            raise ZygoteChangedError(f"the zygote has {threads} threads")
        if namespaces(self.pid) != self.namespaces:
            raise ZygoteChangedError("the zygote has joined other namespaces")
        strange = strange_descriptors(self.pid, self.running.given)
        if strange:
            raise ZygoteChangedError(
                f"the zygote holds descriptors that it was not given: {', '.join(strange)}"[:300]
            )
        self._check_memory()

    def ask(self, order: ForkOrder, descriptors: list[int]) -> None:
        """Make room for one fork and ask for it. The kernel lets nothing come back on this socket.

        Raises `OSError` where the machine is short of what that takes: `clear` is due then.
        """
        self._cgroup.limit_processes(len(self._own) + 1)
        try:
            socket.send_fds(self._socket, [msgspec.json.encode(order)], descriptors)
        except OSError as error:
            if error.errno in (errno.EPIPE, errno.ECONNRESET, errno.ECONNREFUSED):
                raise ZygoteChangedError(f"the zygote takes no order: {error.strerror}") from error
            raise
        self._held.let_go()

    def meet(self) -> int:
        """It stands: the pid of the one new process in its cgroup, a child of the zygote's."""
        new = [pid for pid in self._cgroup.processes() if pid not in self._own]
        if len(new) != 1:
            raise ZygoteChangedError(f"{len(new)} new processes in the zygote's cgroup after a fork, not one")
        if int(procfs.stat(new[0])[1]) != self.pid:
            raise ZygoteChangedError("the new process is no child of the zygote")
        return new[0]

    def clear(self) -> bool:
        """After a fork that failed: true once all is as before it. Raises `ZygoteChangedError`, `OSError`."""
        if self._resting:
            self._resting = False
            self.stop()
        if not self.stands:
            return False
        unknown = [pid for pid in self._cgroup.processes() if pid not in self._own]
        for pid in unknown:
            with contextlib.suppress(ProcessLookupError):
                descriptor = procfs.open_process(pid, functools.partial(self._has, pid))
                try:
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
                finally:
                    os.close(descriptor)
        if unknown:
            if time.monotonic() > self._late:
                raise ZygoteChangedError(f"{len(unknown)} processes in the zygote's cgroup do not die")
            return False
        self._cgroup.limit_processes(len(self._own))
        if strange_descriptors(self.pid, self.running.given):
            now = time.monotonic()
            self._rested = self._rested or now + _REST_SECONDS  # however often it is let go
            if now < self._rested:
                self._resting = True  # its fork ended before it had closed them all, and it was stopped there
                self._held.let_go()
                return False
        self._rested = 0.0
        self.check()
        return True

    def _has(self, pid: int) -> bool:
        return pid in self._cgroup.processes()

    def moved(self) -> None:
        """The fork is in its own cgroup: close the room again, and look. Raises `ZygoteChangedError`."""
        self._cgroup.limit_processes(len(self._own))
        self.check()
        self.forks += 1

    def close(self) -> None:
        """Let go of its descriptors; it is ended by others."""
        self._give_up_template()
        self._socket.close()
        for descriptor in (self.pid_fd, self.template):
            if descriptor >= 0:
                os.close(descriptor)
        self.pid_fd = self.template = -1

    def _check_folders(self) -> None:
        """Its folder must not be one that the cover hides: a path from there would still lead in."""
        folder = procfs.leads_to(f"/proc/{self.pid}/cwd")
        if folder != self.spec.working_directory:
            raise ZygoteChangedError(f"the zygote moved to another folder: {folder[:80]}")

    def _check_memory(self) -> None:
        """No memory that it could go on sharing, for writing, with what is forked from it."""
        text = procfs.read(f"/proc/{self.pid}/maps", most=_MAX_MAPS_BYTES)
        if len(text) >= _MAX_MAPS_BYTES:
            raise ZygoteChangedError("the zygote has more mappings than can be judged")
        for line in procfs.lines(text):
            if line.split(" ", 2)[1] in _SHARED_WRITABLE:
                raise ZygoteChangedError("the zygote has shared memory, which its forks could all write")


def strange_descriptors(pid: int, given: frozenset[str]) -> list[str]:
    """What process `pid` holds beside `given` (``pipe:[N]``, ``socket:[N]``, …) and /dev/null."""
    found = []
    with os.scandir(f"/proc/{pid}/fd") as entries:  # one by one: it may hold a million
        for count, entry in enumerate(entries):
            if count == _MAX_DESCRIPTORS:
                return ["more than can be judged"]
            with contextlib.suppress(FileNotFoundError):
                link = procfs.leads_to(entry.path)
                if link != "/dev/null" and link not in given:
                    found.append(link[:80])
    return found
