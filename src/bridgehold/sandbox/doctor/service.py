"""What a service manager or container took away, found by trying; the unit's own settings where asked.

`docs/how-to/service.md` has a unit that works.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Callable
from functools import partial

import msgspec

from bridgehold.sandbox import containers, syscalls
from bridgehold.sandbox.cgroups.places import own_cgroups
from bridgehold.sandbox.doctor.acts import in_child, read, syscall
from bridgehold.sandbox.doctor.model import Check, Context, Probe, Status, passed
from bridgehold.sandbox.launch.mounts import SHOWN_BELOW, parse_mounts

_AF_NETLINK = 16
_OPENAT2, _AT_FDCWD = 437, -100
_CLONE_NEWUTS = 0x04000000
_ENOUGH_UIDS = 1000
_CAP_SYS_PTRACE = 19


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """`works` is run in a child; false or an error means that `directives` are at work."""

    directives: str
    breaks: str
    works: Callable[[], bool]
    option: containers.Option
    """What a container's runtime calls it."""
    status: Status = "FAIL"


def _user_namespace() -> bool:
    syscalls.unshare(syscalls.CLONE_NEWUSER)
    return True


def _in_namespaces(flags: int, act: Callable[[], None]) -> bool:
    """Whether `act` works in namespaces of one's own; true where there are none (another row's matter)."""
    try:
        syscalls.unshare(syscalls.CLONE_NEWUSER | flags)
    except OSError:
        return True
    act()
    return True


def _mounting() -> bool:
    slave = syscalls.MS_REC | syscalls.MS_SLAVE
    return _in_namespaces(syscalls.CLONE_NEWNS, lambda: syscalls.mount("none", "/", None, slave))


def _naming() -> bool:
    return _in_namespaces(_CLONE_NEWUTS, lambda: socket.sethostname("probe"))


def _netlink() -> bool:
    socket.socket(_AF_NETLINK, socket.SOCK_RAW, 0).close()
    return True


def _writable(path: str) -> bool:
    try:
        return not os.statvfs(path).f_flag & os.ST_RDONLY
    except FileNotFoundError:
        return True


def _new_privileges() -> bool:
    return os.getuid() == 0 or "NoNewPrivs:\t0" in read("/proc/self/status")


def _open_beneath() -> bool:
    how = struct.pack("=QQQ", os.O_RDONLY | os.O_DIRECTORY, 0, 0)
    syscall(_OPENAT2, _AT_FDCWD, ctypes.c_char_p(b"/"), ctypes.c_char_p(how), ctypes.c_size_t(len(how)))
    return True


def _many_uids() -> bool:
    return mapped_uids(read("/proc/self/uid_map")) >= _ENOUGH_UIDS


def mapped_uids(uid_map: str) -> int:
    """How many uids the text of /proc/self/uid_map maps (pure)."""
    return sum(int(line.split()[2]) for line in uid_map.splitlines() if len(line.split()) == 3)


def _whole_usr() -> bool:
    return not refused_below(read("/proc/self/mountinfo"), "/usr")


def refused_below(mountinfo: str, folder: str) -> list[str]:
    """The mount points strictly below `folder` that no sandbox may show, since they hold no files (pure)."""
    shown = parse_mounts(mountinfo).items()
    return [
        point
        for point, seen in shown
        if point.startswith(folder + "/") and seen.kind.partition(".")[0] not in SHOWN_BELOW
    ]


def _attaching() -> bool:
    """Root without it sees no namespace of a session's; an ordinary user's launcher has one of its own."""
    held = next((line.split()[1] for line in read("/proc/self/status").splitlines() if "CapEff" in line), "0")
    return os.geteuid() != 0 or bool(int(held, 16) & 1 << _CAP_SYS_PTRACE)


def _executable_memory() -> bool:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()
    return True


TRIALS = (
    Trial(
        directives="RestrictNamespaces=",
        option=containers.NAMESPACES,
        breaks="no user namespace can be made",
        works=_user_namespace,
    ),
    Trial(
        directives="SystemCallFilter=@system-service (it lacks @mount)",
        option=containers.NAMESPACES,
        breaks="nothing can be mounted in a namespace of one's own",
        works=_mounting,
    ),
    Trial(
        directives="RestrictAddressFamilies= without AF_NETLINK",
        option=containers.CALLS,
        breaks="bwrap can't bring up a sandbox's loopback",
        works=_netlink,
    ),
    Trial(
        directives="ProtectHostname=yes",
        option=containers.HOSTNAME,
        breaks="a sandbox can't get a host name of its own",
        works=_naming,
    ),
    Trial(
        directives="ProcSubset=pid",
        option=containers.PROC,
        breaks="/proc lacks what bwrap reads in /proc/sys",
        works=lambda: bool(read("/proc/sys/kernel/overflowuid")),
    ),
    Trial(
        directives="ProtectProc=invisible, or a /proc mounted with hidepid",
        option=containers.VISIBLE,
        breaks="a session's process can't be seen, so it can't be attested",
        works=lambda: bool(read("/proc/1/status")),
    ),
    Trial(
        directives="ProtectKernelTunables=yes",
        option=containers.PROC,
        breaks="/proc/sys is read-only, and bwrap must write there to forbid further namespaces",
        works=lambda: _writable("/proc/sys"),
    ),
    Trial(
        directives="a mount below /usr that holds no files",
        option=containers.MOUNTS,
        breaks="what is mounted below /usr shows in every sandbox, and this holds no files",
        works=_whole_usr,
    ),
    Trial(
        directives="RestrictSUIDSGID=yes",
        option=containers.CALLS,
        breaks="it forbids openat2, with which the launcher opens what it mounts",
        works=_open_beneath,
    ),
    Trial(
        directives="ProtectControlGroups=yes",
        option=containers.CGROUP,
        breaks="/sys/fs/cgroup is read-only: no limits",
        works=lambda: _writable("/sys/fs/cgroup") or read("/proc/mounts").count(" cgroup rw") > 0,
    ),
    Trial(
        directives="NoNewPrivileges=yes (many directives imply it for a service with User=)",
        option=containers.PRIVILEGES,
        breaks="newuidmap gets no privilege, so sessions get no uids of their own",
        works=_new_privileges,
    ),
    Trial(
        directives="PrivateUsers=yes",
        option=containers.UIDS,
        breaks="this process sees a handful of uids: none are left for sessions",
        works=_many_uids,
    ),
    Trial(
        directives="CapabilityBoundingSet= without CAP_SYS_PTRACE",
        option=containers.ATTACH,
        breaks="a session's namespaces can't be seen, so it can't be attested",
        works=_attaching,
    ),
    Trial(
        directives="MemoryDenyWriteExecute=yes",
        option=containers.CALLS,
        breaks="compilers at run time (numba, V8, torch.compile) fail inside",
        works=_executable_memory,
        status="CAUTION",
    ),
)


def service(_: Context) -> Check:
    """Whether the systemd unit that this runs in delegates what the host needs."""
    unit = unit_name(read("/proc/self/cgroup"))
    contained = not unit and containers.contained(os.environ)
    where = f"unit {unit}" if unit else "a container" if contained else "not a systemd service"
    bad = [trial for trial in TRIALS if in_child(partial(_try, trial)) != 0]
    found: list[tuple[Status, str]] = [
        (one.status, one.breaks if contained else f"{one.directives}: {one.breaks}") for one in bad
    ]
    found += judge_unit(_unit_settings(unit))
    if not found:
        return passed("systemd", f"{where}; {len(TRIALS)} directives that break sandboxes are not at work")
    worst: Status = "FAIL" if any(status == "FAIL" for status, _ in found) else "CAUTION"
    return Check(
        name="systemd",
        status=worst,
        detail=f"{where}; " + "; ".join(text for _, text in found),
        remedy=_options(bad)
        if contained
        else "Take these out of the unit (Delegate=yes, OOMPolicy=continue): docs/how-to/service.md.",
    )


def _options(bad: list[Trial]) -> str:
    """What to start the container with, each option once (pure)."""
    needed = dict.fromkeys(str(one.option) for one in bad)
    return f"Start the container with: {' — '.join(needed)} (docs/how-to/container.md)."


def _try(trial: Trial) -> int:
    return 0 if trial.works() else 1


def unit_name(cgroups: str) -> str:
    """The service that /proc/self/cgroup names, or nothing (pure)."""
    for path in own_cgroups(cgroups).values():
        for part in reversed(path.split("/")):
            if part.endswith(".service") and not part.startswith("user@"):
                return part
    return ""


def judge_unit(settings: dict[str, str]) -> list[tuple[Status, str]]:
    """What the unit's own settings lack (pure). Unknown settings (no systemctl) are not judged."""
    found: list[tuple[Status, str]] = []
    policy = settings.get("OOMPolicy")
    if policy in ("stop", "kill"):
        found.append(("FAIL", f"OOMPolicy={policy}: a session at its memory cap ends the whole service"))
    if settings.get("Delegate") == "no":
        found.append(("CAUTION", "Delegate=no: the service may not divide its own cgroup"))
    return found


def _unit_settings(unit: str) -> dict[str, str]:
    systemctl = shutil.which("systemctl")
    if not unit or systemctl is None:
        return {}
    scope = ["--user"] if "/user@" in read("/proc/self/cgroup") else []
    try:
        shown = subprocess.run(
            [systemctl, *scope, "show", "-p", "OOMPolicy,Delegate", "--", unit],
            check=False,
            capture_output=True,
            text=True,
            timeout=5,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


PROBES = (
    Probe(
        name="systemd",
        proves="No directive of the unit (or container profile) that breaks sandboxes is at work.",
        run=service,
    ),
)
