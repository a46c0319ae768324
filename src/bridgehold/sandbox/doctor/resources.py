"""The cgroup's limits, each by running into it."""

from __future__ import annotations

import contextlib
import mmap
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator

from bridgehold.ids import random_id
from bridgehold.policies.units import format_size
from bridgehold.sandbox import procfs
from bridgehold.sandbox.cgroups import CgroupParent, SessionCgroup, open_parent
from bridgehold.sandbox.doctor.model import Check, Context, Probe, caution, failed, passed
from bridgehold.sandbox.values import Resources

_MIB = 1 << 20
# So small a quota that a loop meets it on a machine with much else to do.
_SMALL = Resources(memory_bytes=48 * _MIB, cpu_millis=20, processes=16, open_files=64, file_size_bytes=_MIB)
FREE = Resources(memory_bytes=48 * _MIB, cpu_millis=10_000, processes=16, open_files=64, file_size_bytes=_MIB)
_BOMB = 512 * _MIB
_FORKS = 200
_SPIN_SECONDS = 0.6
_END_SECONDS = 10
# A program of its own: what forks is as small and as simple whoever calls.
_FORK_BOMB = f"""
import os, time
made = 0
for _ in range({_FORKS}):
    try:
        if os.fork() == 0:
            os.close(1)
            time.sleep(60)
            os._exit(0)
        made += 1
    except BlockingIOError:
        break
os.write(1, f"{{made}}\\n".encode())
time.sleep(60)
"""


@contextlib.contextmanager
def session(context: Context, resources: Resources) -> Iterator[tuple[CgroupParent, SessionCgroup]]:
    """A session cgroup of the kind that the host would make, ended and removed after."""
    parent = open_parent(context.cgroup, reserve_bytes=context.reserve_bytes, instance=random_id("doctor", 8))
    try:
        yield parent, parent.create("probe", resources, tenant="local")
    finally:
        parent.close()


def enter_and(cgroup: SessionCgroup, act: Callable[[], None]) -> int:
    """Do `act` in a child within `cgroup`; the child's wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            cgroup.enter()
            act()
            os._exit(0)
        finally:
            os._exit(1)
    return pid


def memory(context: Context) -> Check:
    """Whether the memory limit kills what goes past it; by going past it."""

    def bomb() -> None:
        area = mmap.mmap(-1, _BOMB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        for at in range(0, _BOMB, mmap.PAGESIZE):
            area[at] = 1

    with session(context, FREE) as (parent, cgroup):
        if parent.version == "none":
            return caution(
                "cgroup",
                "none, as the configuration says: memory is sampled by a watchdog, "
                "cpu is neither limited nor shared out by tenant",
                'Set `[host] cgroup = "auto"` on a machine with cgroups.',
            )
        status = os.waitstatus_to_exitcode(os.waitpid(enter_and(cgroup, bomb), 0)[1])
        usage = cgroup.usage()
        if status != -signal.SIGKILL or usage.oom_kills < 1:
            return failed(
                "cgroup",
                f"{format_size(_BOMB)} under a cap of {format_size(FREE.memory_bytes)} ended with {status}, "
                f"{usage.oom_kills} kills counted",
                "Enable the memory controller (kernel parameter cgroup_enable=memory).",
            )
        return passed(
            "cgroup",
            f"{parent.version}: a bomb of {format_size(_BOMB)} died at its cap of "
            f"{format_size(FREE.memory_bytes)}, and the kernel counted it; sessions may have "
            f"{format_size(parent.capacity_bytes)} together; "
            f"tenants have a share each of processors{' and storage' * parent.weighs_io}",
        )


def pids(context: Context) -> Check:
    """Whether the process limit refuses one more; by forking one more."""
    read, write = os.pipe()

    def bomb() -> None:
        os.dup2(write, 1)
        argv = [sys.executable, "-P", "-E", "-S", "-c", _FORK_BOMB]
        os.execv(argv[0], argv)  # noqa: S606 - our own interpreter, without a shell on purpose

    with session(context, FREE) as (parent, cgroup):
        if parent.version == "none":
            return caution("pids", "no cgroup: a watchdog counts processes", "See the row cgroup.")
        enter_and(cgroup, bomb)
        os.close(write)
        said = os.read(read, 16)  # nothing, where it has ended
        if not said:
            return failed("pids", "the process that was to fork ended before it could", "Please report this.")
        made = int(said)
        usage = cgroup.usage()
        if made >= FREE.processes or made == _FORKS:
            return failed(
                "pids", f"{made} forks under a cap of {FREE.processes}", "Enable the pids controller."
            )
        cgroup.kill()
        deadline = time.monotonic() + _END_SECONDS
        while (left := cgroup.processes()) and time.monotonic() < deadline:
            _reap()
        if left:
            states = ", ".join(sorted({_state_of(pid) for pid in left}))
            return failed(
                "pids", f"{len(left)} processes were left after the kill ({states})", "Please report this."
            )
    return passed(
        "pids", f"the fork after {made} of {_FORKS} was refused (counted {usage.pids_denied}); all gone"
    )


def _state_of(pid: int) -> str:
    """In the kernel's words, for a report."""
    try:
        lines = procfs.lines(procfs.read(f"/proc/{pid}/status"))
    except OSError:
        return "gone"
    return next((line for line in lines if line.startswith("State:")), "unknown")


def _reap() -> None:
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    time.sleep(0.005)


def cpu(context: Context) -> Check:
    """Whether the processor quota throttles a loop; by running one."""

    def spin() -> None:
        while True:
            pass

    with session(context, _SMALL) as (parent, cgroup):
        if parent.version == "none":
            return caution("cpu", "no cgroup: cpu is not limited", "See the row cgroup.")
        started = time.monotonic()
        enter_and(cgroup, spin)
        time.sleep(_SPIN_SECONDS)
        usage, wall = cgroup.usage(), time.monotonic() - started
    share = usage.cpu_us / (wall * 1e6)
    if usage.throttled_us == 0 or share > 0.5:
        return failed(
            "cpu",
            f"a loop under a quota of 2 % got {share:.0%} of a core",
            "Enable the cpu controller (CONFIG_CFS_BANDWIDTH).",
        )
    return passed("cpu", f"a loop under a quota of 2 % got {share:.0%} of a core")


PROBES = (
    Probe(
        name="cgroup",
        proves="A session's cgroup can be made; a memory bomb dies at its cap and the kernel counts it.",
        run=memory,
    ),
    Probe(
        name="pids",
        proves="A fork bomb is refused at its cap, and a kill leaves nothing.",
        run=pids,
    ),
    Probe(name="cpu", proves="A busy loop gets its quota of cpu.", run=cpu),
)
