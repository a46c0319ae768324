"""The seccomp filter as reviewable data, compiled by libseccomp. Default: allow; what is named is refused.

bubblewrap loads it just before the guest's first instruction, so it never hinders the set-up.
`docs/reference/seccomp.md` is generated from `RULES`.
"""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Literal

import msgspec

from bridgehold.errors import UnsupportedError

Compare = Literal["ne", "eq", "masked_eq", "ge", "gt"]
_COMPARE = {"ne": 1, "eq": 4, "ge": 5, "gt": 6, "masked_eq": 7}
_ALLOW = 0x7FFF0000
_ERRNO = 0x00050000
_KILL_PROCESS = 0x80000000
_ATTRIBUTE_BAD_ARCH = 2
_UNKNOWN = -1
"""libseccomp's answer to a name that it doesn't know at all."""

CLONE_NEW_FLAGS = 0x7E020080
"""CLONE_NEWNS | NEWCGROUP | NEWUTS | NEWIPC | NEWUSER | NEWPID | NEWNET | NEWTIME."""
_SOCK_TYPE_MASK = 0xF


class Argument(msgspec.Struct, frozen=True):
    """A test on one argument: ``arg[index] OP value`` (``masked_eq``: ``arg & mask == value``)."""

    index: int
    op: Compare
    value: int
    mask: int = 0


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """Refuse `calls` with `answer` where every one of `when` holds."""

    calls: tuple[str, ...]
    why: str
    answer: int = errno.EPERM
    when: tuple[Argument, ...] = ()


def _sockets() -> tuple[Rule, ...]:
    """Every family but UNIX (1), INET (2) and INET6 (10): below, between and above them.

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
    types = [
        Rule(
            calls=("socket",),
            why=f"socket type {name}",
            when=(Argument(1, "masked_eq", number, _SOCK_TYPE_MASK),),
        )
        for name, number in (("raw", 3), ("rdm", 4), ("dccp", 6), ("packet, the old way to AF_PACKET", 10))
    ]
    protocols = Rule(
        calls=("socket",),
        why="protocols above UDP: SCTP, DCCP, UDP-Lite, MPTCP, ICMPv6, …",
        answer=errno.EPROTONOSUPPORT,
        when=(Argument(2, "gt", 17),),
    )
    return (*rules, above, *types, protocols)


RULES: tuple[Rule, ...] = (
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
            "statmount",
            "listmount",
            "open_tree_attr",
        ),
        why="the mount interface, old and new",
    ),
    Rule(calls=("unshare", "setns"), why="other namespaces"),
    Rule(calls=("clone3",), why="its flags are in memory; libc falls back to clone", answer=errno.ENOSYS),
    *(
        Rule(
            calls=("clone",),
            why=f"clone flag {flag:#x}: a new namespace",
            when=(Argument(0, "masked_eq", flag, flag),),
        )
        for flag in (0x00020000, 0x02000000, 0x04000000, 0x08000000, 0x10000000, 0x20000000, 0x40000000, 0x80)
    ),
    Rule(calls=("add_key", "request_key", "keyctl"), why="kernel keyrings are shared beyond namespaces"),
    Rule(calls=("bpf", "perf_event_open", "userfaultfd"), why="kernel attack surface"),
    Rule(calls=("io_uring_setup", "io_uring_enter", "io_uring_register"), why="calls that seccomp can't see"),
    Rule(
        calls=("ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "kcmp", "process_madvise"),
        why="other processes' memory and descriptors",
    ),
    Rule(calls=("open_by_handle_at", "name_to_handle_at"), why="files by handle pass mounts by"),
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
            "nfsservctl",
            "iopl",
            "ioperm",
            "settimeofday",
            "clock_settime",
            "clock_adjtime",
            "adjtimex",
            "lookup_dcookie",
            "set_mempolicy_home_node",
            "move_pages",
            "migrate_pages",
            "fanotify_init",
            "modify_ldt",
            "uselib",
            "ustat",
            "sysfs",
            "_sysctl",
            "create_module",
            "get_kernel_syms",
            "query_module",
            "sethostname",
            "setdomainname",
        ),
        why="the machine's administration",
    ),
    Rule(
        calls=("personality",),
        why="personalities that weaken address randomisation or take up old system-call ways",
        when=(Argument(0, "gt", 0x0020008),),
    ),
    *(
        Rule(calls=("ioctl",), why=why, when=(Argument(1, "masked_eq", request, 0xFFFFFFFF),))
        for request, why in (
            (0x5412, "TIOCSTI: typing into a terminal (the kernel looks at 32 bits, so do we)"),
            (0x541C, "TIOCLINUX: the console"),
            (0x5423, "TIOCSETD: line disciplines, which load kernel modules"),
        )
    ),
    *_sockets(),
)


ZYGOTE_RULES: tuple[Rule, ...] = (
    *(
        msgspec.structs.replace(rule, calls=tuple(call for call in rule.calls if call != "setns"))
        for rule in RULES
    ),
    Rule(calls=("pidfd_open",), why="a zygote's forks join what they are handed, and nothing else"),
    Rule(
        calls=("clone",),
        why="CLONE_PTRACE: a child that the launcher would hold too",
        when=(Argument(0, "masked_eq", 0x2000, 0x2000),),
    ),
)
"""A zygote's own filter: its forks join namespaces, and then load `RULES` on top."""

NEW_NUMBERS = {
    "statmount": 457,
    "listmount": 458,
    "open_tree_attr": 467,
}
"""Calls that Debian 12's libseccomp can't name. Since 2019 a new call has one number everywhere."""

UNREVIEWED = range(470, 512)
"""Numbers that had no call when this list was reviewed: ENOSYS, as on the kernel of that day."""


def compile_filter(rules: tuple[Rule, ...] = RULES) -> bytes:
    """The BPF program of `rules`, for bubblewrap's ``--seccomp``.

    A name that neither libseccomp nor `NEW_NUMBERS` knows is a call that this architecture lacks; any
    call newer than this list is `UNREVIEWED`. Raises `UnsupportedError` where libseccomp is missing
    or refuses a rule.
    """
    library = _library()
    context = library.seccomp_init(_ALLOW)
    if not context:
        raise UnsupportedError("libseccomp could not start a filter")
    try:
        _must(
            library.seccomp_attr_set(ctypes.c_void_p(context), _ATTRIBUTE_BAD_ARCH, _KILL_PROCESS),
            "architecture",
        )
        for rule in rules:
            for call in rule.calls:
                _add(library, context, rule, _number(library, call))
        future = Rule(calls=(), why="newer than this list", answer=errno.ENOSYS)
        for number in UNREVIEWED:
            _add(library, context, future, number)
        descriptor = os.memfd_create("bpf")
        try:
            _must(library.seccomp_export_bpf(ctypes.c_void_p(context), descriptor), "export")
            size = os.lseek(descriptor, 0, os.SEEK_END)
            return os.pread(descriptor, size, 0)
        finally:
            os.close(descriptor)
    finally:
        library.seccomp_release(ctypes.c_void_p(context))


class _ArgCompare(ctypes.Structure):
    _fields_ = (
        ("arg", ctypes.c_uint),
        ("op", ctypes.c_int),
        ("datum_a", ctypes.c_uint64),
        ("datum_b", ctypes.c_uint64),
    )


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL("libseccomp.so.2")
    except OSError as error:
        raise UnsupportedError(
            "libseccomp.so.2 is missing", hint="Install it: apt-get install libseccomp2"
        ) from error
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    return library


def _number(library: ctypes.CDLL, call: str) -> int:
    """The call's number; negative where this architecture has no such call, and nothing can make it."""
    number = int(library.seccomp_syscall_resolve_name(call.encode()))
    return NEW_NUMBERS.get(call, number) if number == _UNKNOWN else number


def _add(library: ctypes.CDLL, context: int, rule: Rule, number: int) -> None:
    if number < 0:
        return
    compares = (_ArgCompare * len(rule.when))(*(_compare(test) for test in rule.when))
    result = library.seccomp_rule_add_array(
        ctypes.c_void_p(context), ctypes.c_uint32(_ERRNO | rule.answer), number, len(rule.when), compares
    )
    _must(result, f"rule for {rule.calls or number}")


def _compare(test: Argument) -> _ArgCompare:
    if test.op == "masked_eq":
        return _ArgCompare(test.index, _COMPARE[test.op], test.mask, test.value)
    return _ArgCompare(test.index, _COMPARE[test.op], test.value, 0)


def _must(result: int, what: str) -> None:
    if result < 0:
        raise UnsupportedError(f"libseccomp refused the {what}: {os.strerror(-result)}")


def reference() -> str:
    """``docs/reference/seccomp.md``, generated."""
    lines = [
        "# The seccomp filter",
        "",
        "Whatever no row refuses is allowed. The guest sees the error as the call's own failure.",
        "A call of a foreign architecture (32-bit, x32) kills the process.",
        "",
        "| calls | only where | answer | why |",
        "| --- | --- | --- | --- |",
    ]
    for rule in RULES:
        calls = ", ".join(f"`{call}`" for call in rule.calls)
        when = " and ".join(_shown(test) for test in rule.when) or "always"
        lines.append(f"| {calls} | {when} | {errno.errorcode[rule.answer]} | {rule.why} |")
    lines.append(
        f"| every call numbered {UNREVIEWED.start} to {UNREVIEWED.stop - 1} | always | ENOSYS | "
        "newer than this list |"
    )
    lines += [
        "",
        "A zygote may call `setns`, which its forks join their namespaces with; they load the list above on",
        "top. It may not call `pidfd_open`, and so its forks may not either: EPERM, and asyncio falls back.",
    ]
    return "\n".join(lines) + "\n"


def _shown(test: Argument) -> str:
    if test.op == "masked_eq":
        return f"argument {test.index} & {test.mask:#x} = {test.value:#x}"
    words = {"eq": "=", "ne": "≠", "gt": ">", "ge": "≥"}
    return f"argument {test.index} {words[test.op]} {test.value}"
