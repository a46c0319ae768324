"""The seccomp filter as reviewable data: what is named is refused, everything else is allowed.

`seccomp` compiles it. What is refused because no cgroup counts it is in `seccomp_uncounted`.
"""

from __future__ import annotations

import errno
from typing import Literal

import msgspec

from bridgehold.sandbox.values import GUEST_UID

Compare = Literal["ne", "lt", "eq", "masked_eq", "ge", "gt", "other_id"]
_SOCK_TYPE_MASK = 0xF


class Argument(msgspec.Struct, frozen=True):
    """A test on one argument: ``arg[index] OP value`` (``masked_eq``: ``arg & mask == value``).

    ``other_id``: as 32 bits, neither `value` nor -1, by which a call leaves an id as it is.
    """

    index: int
    op: Compare
    value: int
    mask: int = 0


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Refuse `calls` with `answer` where every one of `when` holds. Answer 0: done, without effect."""

    calls: tuple[str, ...]
    why: str
    answer: int = errno.EPERM
    when: tuple[Argument, ...] = ()
    tracer: bool = False
    """Done where a tracer that asked for it lets it pass, and ENOSYS where there is none."""


_MODPROBE = "the kernel starts modprobe for the driver that it lacks, before it asks who calls"
_LOADERS = (
    *((0x8940, "SIOCGIFBR"), (0x8941, "SIOCSIFBR"), (0x89A0, "SIOCBRADDBR"), (0x89A1, "SIOCBRDELBR")),
    *((0x8980, "SIOCADDDLCI"), (0x8981, "SIOCDELDLCI"), (0x8982, "SIOCGIFVLAN"), (0x8983, "SIOCSIFVLAN")),
)
"""Requests of any socket, whatever its family."""


_FAMILIES = (1, 2, 10)
"""UNIX, INET, INET6."""


def _sockets() -> tuple[Rule, ...]:
    """Every family but `_FAMILIES`: below, between and above them.

    All 64 bits are compared though the kernel looks at 32: what has high bits set is "above".
    """
    refused = [0, *range(3, 10)]
    rules = [
        Rule(
            calls=("socket", "socketpair"),
            why=f"address family {family}",
            answer=errno.EAFNOSUPPORT,
            when=(Argument(0, "eq", family),),
        )
        for family in refused
    ]
    above = Rule(
        calls=("socket", "socketpair"),
        why="address families above INET6: netlink, packet, vsock, alg, bluetooth, xdp, …",
        answer=errno.EAFNOSUPPORT,
        when=(Argument(0, "gt", 10),),
    )
    # Of the families that there are: another's answer is its own, at which libraries fall back. For a type
    # that no protocol has the kernel looks for a module, as for a protocol.
    named = (("raw", 3), ("rdm", 4), ("dccp", 6), ("packet, the old way to AF_PACKET", 10))
    types = [
        Rule(
            calls=("socket", "socketpair"),
            why=f"socket type {name} (family {family})",
            when=(Argument(0, "eq", family), Argument(1, "masked_eq", number, _SOCK_TYPE_MASK)),
        )
        for family in _FAMILIES
        for name, number in (*named, *((f"{number}, which none has", number) for number in (0, 7, 8, 9)))
    ]
    return (*rules, above, *types, *_protocols())


def _protocols() -> tuple[Rule, ...]:
    """Every protocol but TCP (6) and UDP (17): for what it lacks, the kernel starts root's modprobe.

    Not of types that are refused whatever the protocol: a raw socket's answer is the kernel's own, at which
    libraries take another.
    """
    why = "protocols other than TCP and UDP: the kernel starts modprobe for what it lacks"
    above = "protocols above UDP: SCTP, DCCP, UDP-Lite, MPTCP, ICMPv6, …"
    stream, datagram, packets = (Argument(1, "masked_eq", kind, _SOCK_TYPE_MASK) for kind in (1, 2, 5))
    unix = Argument(0, "eq", 1)
    refused: list[tuple[str, tuple[Argument, ...]]] = [
        *(
            (f"{why} (family 1)", (unix, Argument(2, "eq", number)))
            for number in (*range(2, 6), *range(7, 17))
        ),
        (f"{above} (family 1)", (unix, Argument(2, "gt", 17))),
    ]
    for family in (2, 10):
        inet = Argument(0, "eq", family)
        refused.append((f"{why} (family {family})", (inet, packets)))
        for kind, own in ((stream, 6), (datagram, 17)):
            others = [number for number in range(1, 18) if number != own]
            refused += [
                (f"{why} (family {family})", (inet, kind, Argument(2, "eq", number))) for number in others
            ]
            refused.append((f"{above} (family {family})", (inet, kind, Argument(2, "gt", 17))))
    return tuple(
        Rule(calls=("socket", "socketpair"), why=why, answer=errno.EPROTONOSUPPORT, when=when)
        for why, when in refused
    )


_IDS = (
    (("chown", "lchown", "fchown"), (1, 2)),
    (("fchownat",), (2, 3)),
    (("setuid", "setgid"), (0,)),
    (("setreuid", "setregid"), (0, 1)),
    (("setresuid", "setresgid"), (0, 1, 2)),
)
"""Calls that take uids and gids, and where."""


def _personalities() -> tuple[Rule, ...]:
    """Every personality above 0x3ffff but 0xffffffff, which only asks.

    One test for each argument is all that a rule can have. So: bits 18 to 31, the flags, are neither all
    set nor all clear where one of them is set and the next, round about, is clear; and where all are set,
    one of the lower is clear.
    """
    flags = range(18, 32)
    pairs = [(1 << bit, 1 << (bit + 1 if bit + 1 in flags else flags[0])) for bit in flags]
    pairs += [(1 << 31, 1 << bit) for bit in range(18)]
    tests = [Argument(0, "masked_eq", is_set, is_set | is_clear) for is_set, is_clear in pairs]
    why = "personalities that weaken address randomisation or take up old system-call ways"
    return tuple(
        Rule(calls=("personality",), why=why, when=(test,))
        for test in (*tests, Argument(0, "gt", 0xFFFFFFFF))
    )


SURFACE: tuple[Rule, ...] = (
    Rule(
        calls=(
            "mount",
            "umount",
            "umount2",
            "pivot_root",
            "chroot",
            "open_tree",
            "move_mount",
            "fsopen",
            "fsconfig",
            "fsmount",
            "fspick",
            "mount_setattr",
        ),
        why="the mount interface, old and new",
    ),
    Rule(
        calls=("statmount", "listmount", "open_tree_attr"),
        why="the mount interface, newest: programs read /proc/self/mountinfo where it is missing",
        answer=errno.ENOSYS,
    ),
    Rule(calls=("unshare",), why="other namespaces"),
    Rule(calls=("clone3",), why="its flags are in memory; libc falls back to clone", answer=errno.ENOSYS),
    *(
        Rule(
            calls=("clone",),
            why=f"clone flag {flag:#x}: a new namespace",
            when=(Argument(0, "masked_eq", flag, flag),),
        )
        for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x80)
    ),
    Rule(
        calls=("prctl",),
        why="PR_SET_SECCOMP: filters, compiled into memory that all programs of the machine share",
        answer=errno.EINVAL,
        when=(Argument(0, "masked_eq", 22, 0xFFFFFFFF),),
    ),
    Rule(
        calls=("add_key", "request_key", "keyctl"),
        why="kernel keyrings are shared beyond namespaces",
        answer=errno.ENOSYS,
    ),
    Rule(calls=("bpf", "perf_event_open", "userfaultfd"), why="kernel attack surface"),
    Rule(
        calls=("io_uring_setup", "io_uring_enter", "io_uring_register"),
        why="calls that seccomp can't see",
        answer=errno.ENOSYS,
    ),
    Rule(
        calls=("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "process_madvise"),
        why="other processes' memory and descriptors",
    ),
    Rule(calls=("open_by_handle_at",), why="files by handle pass mounts by"),
    Rule(calls=("name_to_handle_at",), why="files by handle pass mounts by", answer=errno.EOPNOTSUPP),
    Rule(
        calls=(
            "kexec_load",
            "kexec_file_load",
            "init_module",
            "finit_module",
            "delete_module",
            "reboot",
            "swapon",
            "swapoff",
            "acct",
            "quotactl",
            "quotactl_fd",
            "syslog",
            "vhangup",
            "iopl",
            "ioperm",
            "settimeofday",
            "clock_settime",
            "clock_adjtime",
            "adjtimex",
            "fanotify_init",
            "ustat",
            "sysfs",
            "sethostname",
            "setdomainname",
        ),
        why="the machine's administration",
    ),
    Rule(
        calls=(
            *("nfsservctl", "lookup_dcookie", "uselib", "_sysctl", "create_module", "get_kernel_syms"),
            *("query_module", "modify_ldt"),
        ),
        why="what kernels have given up, or are built without",
        answer=errno.ENOSYS,
    ),
    Rule(
        calls=("move_pages", "migrate_pages"),
        why="where memory lies: no NUMA, as for the memory policies",
        answer=errno.ENOSYS,
    ),
    *_personalities(),
    *(
        Rule(
            calls=calls,
            why="a uid or gid that is not the guest's: as at home, where the kernel would say EINVAL of what "
            "the user namespace lacks",
            when=(Argument(index, "other_id", GUEST_UID),),
        )
        for calls, indexes in _IDS
        for index in indexes
    ),
    *(
        Rule(calls=("ioctl",), why=why, when=(Argument(1, "masked_eq", request, 0xFFFFFFFF),))
        for request, why in (
            (0x5412, "TIOCSTI: typing into a terminal (the kernel looks at 32 bits, so do we)"),
            (0x541C, "TIOCLINUX: the console"),
            (0x5423, "TIOCSETD: line disciplines, which load kernel modules"),
            *((request, f"{name}: {_MODPROBE}") for request, name in _LOADERS),
        )
    ),
    Rule(
        calls=("ioctl",),
        why="of a namespace: from one to who owns it, and to the next one of the machine",
        when=(Argument(1, "masked_eq", 0xB700, 0xFF00),),
    ),
    *_sockets(),
)


JOIN = Rule(calls=("setns",), why="other namespaces", answer=errno.ENOSYS)
JOIN_TRACED = msgspec.structs.replace(JOIN, tracer=True)
"""A zygote's: its forks join their namespaces while the launcher traces them, call by counted call."""
