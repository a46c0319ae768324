"""What the filter refuses because the kernel charges it to nobody: memory and numbers outside every cgroup.

Each was seen to grow a machine's memory by megabytes a second from a session that stayed below its cap,
or takes one of a count that the whole machine, or all of an account's sessions, share. The answer is the
one that a kernel without the feature gives, at which libraries fall back.
`docs/explanation/what-is-counted.md` has the whole list, with what is bounded in other ways.
"""

from __future__ import annotations

import errno

from bridgehold.sandbox.launch.seccomp_rules import Argument, Rule

_LOW = 0xFFFFFFFF
"""The kernel looks at 32 bits of these arguments, and so do we."""

_SOL_IP, _SOL_SOCKET, _SOL_TCP, _SOL_UDP, _SOL_IPV6 = 0, 1, 6, 17, 41
_OPTIONS: dict[int, dict[int, str]] = {
    _SOL_SOCKET: {
        18: "SO_RCVLOWAT: widens the buffer of connections that nobody has accepted",
        26: "SO_ATTACH_FILTER: compiled into memory that all programs of the machine share",
        37: "SO_TIMESTAMPING: packets on the error queue",
        41: "SO_WIFI_STATUS: packets on the error queue",
        50: "SO_ATTACH_BPF",
        51: "SO_ATTACH_REUSEPORT_CBPF: as SO_ATTACH_FILTER",
        52: "SO_ATTACH_REUSEPORT_EBPF",
        60: "SO_ZEROCOPY: notes on the error queue",
        61: "SO_TXTIME: packets on the error queue",
        65: "SO_TIMESTAMPING, new: packets on the error queue",
    },
    _SOL_IP: {
        11: "IP_RECVERR: packets on the error queue",
        26: "IP_RECVERR_RFC4884: as IP_RECVERR",
        **dict.fromkeys((35, 37, 38, 39, 40, 41, *range(42, 49)), "multicast groups and their sources"),
    },
    _SOL_IPV6: {
        6: "IPV6_2292PKTOPTIONS: a header of the caller's size, kept",
        25: "IPV6_RECVERR: packets on the error queue",
        31: "IPV6_RECVERR_RFC4884: as IPV6_RECVERR",
        32: "IPV6_FLOWLABEL_MGR: labels are counted for the machine",
        **dict.fromkeys((20, 27, *range(42, 49)), "multicast and anycast groups and their sources"),
        **dict.fromkeys((54, 55, 57, 59), "extension headers, kept"),
    },
    _SOL_TCP: {
        14: "TCP_MD5SIG: keys without end",
        31: "TCP_ULP: other protocols within TCP",
        32: "TCP_MD5SIG_EXT: as TCP_MD5SIG",
        38: "TCP_AO_ADD_KEY: as TCP_MD5SIG",
    },
    _SOL_UDP: {100: "UDP_ENCAP: other protocols within UDP"},
}
_REVIEWED = {_SOL_SOCKET: 84, _SOL_IP: 52, _SOL_IPV6: 78, _SOL_TCP: 46, _SOL_UDP: 104}
"""Level → the last option that there was when this list was reviewed."""


def _low(index: int, value: int) -> Argument:
    return Argument(index, "masked_eq", value, _LOW)


def _options() -> tuple[Rule, ...]:
    """Socket options: those that are named, those newer than the list, and levels without business here."""
    refused: list[tuple[str, tuple[Argument, ...]]] = [
        (why, (_low(1, level), _low(2, number)))
        for level, named in _OPTIONS.items()
        for number, why in named.items()
    ]
    refused += [
        (f"options of level {level} that are newer than this list", (_low(1, level), Argument(2, "gt", last)))
        for level, last in _REVIEWED.items()
    ]
    refused.append(("levels above IPv6's: TLS, SCTP, MPTCP, …", (Argument(1, "gt", _SOL_IPV6),)))
    return tuple(
        Rule(calls=("setsockopt",), why=why, answer=errno.ENOPROTOOPT, when=when) for why, when in refused
    )


_SO_RCVBUF, _RLIMIT_CORE = 8, 4
_CLONE_FILES, _CLONE_THREAD = 0x400, 0x10000

UNCOUNTED: tuple[Rule, ...] = (
    *_options(),
    Rule(
        calls=("setsockopt",),
        why="SO_RCVBUF: connections that nobody has accepted are charged to nobody, up to this size each",
        answer=0,
        when=(_low(1, _SOL_SOCKET), _low(2, _SO_RCVBUF)),
    ),
    Rule(calls=("seccomp",), why="filters, as PR_SET_SECCOMP", answer=errno.ENOSYS),
    Rule(
        calls=("io_setup", "io_destroy", "io_submit", "io_cancel", "io_getevents", "io_pgetevents"),
        why="asynchronous I/O of the kernel's: its contexts are counted for the machine (fs.aio-max-nr)",
        answer=errno.ENOSYS,
    ),
    Rule(
        calls=("inotify_init", "inotify_init1"),
        why="inotify: instances are counted for an account, and what is read-only is watched across sessions",
        answer=errno.ENOSYS,
    ),
    Rule(
        calls=("mbind", "set_mempolicy", "set_mempolicy_home_node", "get_mempolicy"),
        why="memory policies of shared memory stay, one for each page, after it is unmapped",
        answer=errno.ENOSYS,
    ),
    Rule(
        calls=("mmap",),
        why="MAP_HUGETLB: huge pages are the machine's",
        answer=errno.ENOMEM,
        when=(Argument(3, "masked_eq", 0x40000, 0x40000),),
    ),
    Rule(
        calls=("memfd_create",),
        why="MFD_HUGETLB: huge pages are the machine's",
        answer=errno.EINVAL,
        when=(Argument(1, "masked_eq", 4, 4),),
    ),
    Rule(
        calls=("shmget",),
        why="SHM_HUGETLB: huge pages are the machine's",
        answer=errno.ENOMEM,
        when=(Argument(2, "masked_eq", 0o4000, 0o4000),),
    ),
    Rule(
        calls=("madvise",),
        why="MADV_MERGEABLE: notes of pages are charged to nobody, and a write's time tells what others hold",
        answer=errno.EINVAL,
        when=(_low(2, 12),),
    ),
    Rule(
        calls=("prctl",),
        why="PR_SET_MEMORY_MERGE: as MADV_MERGEABLE, for all of a process",
        answer=errno.EINVAL,
        when=(_low(0, 67),),
    ),
    Rule(
        calls=("prctl",),
        why="PR_SCHED_CORE: the other thread of each processor core that it runs on would idle for it",
        answer=errno.EINVAL,
        when=(_low(0, 62),),
    ),
    Rule(
        calls=("sync", "syncfs"),
        why="waits for all that the machine has to write, and can't be killed meanwhile; what a session "
        "writes is on no disk",
        answer=0,
    ),
    Rule(
        calls=("fadvise64",),
        why="POSIX_FADV_DONTNEED: throws what others read out of the machine's memory, and so tells when "
        "they read it again",
        answer=0,
        when=(_low(3, 4),),
    ),
    Rule(
        calls=("sched_setattr",),
        why="turns on the processor as short as the host's own, which are served before longer ones",
        answer=errno.ENOSYS,
    ),
    Rule(calls=("memfd_secret",), why="takes pages out of the kernel's own map", answer=errno.ENOSYS),
    Rule(
        calls=("setxattr", "lsetxattr", "fsetxattr", "setxattrat"),
        why="access lists: up to 64 KiB for each file",
        answer=errno.EOPNOTSUPP,
    ),
    Rule(
        calls=("fcntl",),
        why="F_SETPIPE_SZ: a pipe's pages are counted for the account that made it, and some are the host's",
        when=(_low(1, 1031),),
    ),
    *(
        Rule(calls=("fcntl",), why=why, answer=errno.EINVAL, when=(_low(1, command),))
        for command, why in (
            (36, "F_OFD_GETLK: as F_OFD_SETLK"),
            (37, "F_OFD_SETLK: locks without an owner that could be counted"),
            (38, "F_OFD_SETLKW: as F_OFD_SETLK"),
            (1024, "F_SETLEASE: who opens the file waits, be it the host"),
            (1026, "F_NOTIFY: as inotify"),
        )
    ),
    Rule(
        calls=("clone",),
        why="CLONE_FILES without CLONE_THREAD: locks would outlive the process that is known as their owner",
        when=(Argument(0, "masked_eq", _CLONE_FILES, _CLONE_FILES | _CLONE_THREAD),),
    ),
    Rule(
        calls=("setrlimit",),
        why="RLIMIT_CORE: it stays at 1, at which a crash starts no handler; no core is ever written",
        answer=0,
        when=(_low(0, _RLIMIT_CORE),),
    ),
    Rule(
        calls=("prlimit64",),
        why="RLIMIT_CORE, as by setrlimit",
        answer=0,
        when=(_low(1, _RLIMIT_CORE), Argument(2, "ne", 0), Argument(3, "eq", 0)),
    ),
    Rule(
        calls=("prlimit64",),
        why="RLIMIT_CORE, with the old value asked for in one go",
        when=(_low(1, _RLIMIT_CORE), Argument(2, "ne", 0), Argument(3, "ne", 0)),
    ),
)
