"""The acts: what each tries, at which barrier, how success would look, what is looked at outside. Data."""

from __future__ import annotations

from importlib.resources import files
from typing import Literal

import msgspec

Barrier = Literal[
    "landlock",
    "seccomp",
    "namespaces",
    "mounts",
    "cgroup memory",
    "cgroup pids",
    "cgroup cpu",
    "rlimits",
    "network",
    "gateway",
    "keys",
    "frames",
    "output",
    "deadlines",
    "audit",
]
Look = Literal["marker", "listener", "victim", "left", "memory", "processes", "output", "violation", "forged"]
"""What is looked at outside; that the act's outcome stands in the audit always is."""


class Act(msgspec.Struct, frozen=True, kw_only=True):
    """One act. `name` with underscores is its function in ``assets/``."""

    name: str
    barrier: Barrier
    rows: tuple[int, ...]
    """Of the table of hostile acts in docs/SPEC.md."""
    tries: str
    success: str
    """How it would look from inside."""
    looks: tuple[Look, ...] = ()
    ends: tuple[str, ...] = ()
    """Codes of errors that are the barrier's own answer."""
    deadline_s: int = 40
    doctor: str = ""
    """The doctor's probe that tries it, where it is no guest's to reach."""

    @property
    def function(self) -> str:
        """Its function's name."""
        return self.name.replace("-", "_")


_ENDED = ("memory", "limit")


def _act(
    name: str,
    barrier: Barrier,
    rows: tuple[int, ...],
    tries: str,
    success: str,
    *looks: Look,
    ends: tuple[str, ...] = (),
    deadline_s: int = 40,
) -> Act:
    return Act(
        name=name,
        barrier=barrier,
        rows=rows,
        tries=tries,
        success=success,
        looks=looks,
        ends=ends,
        deadline_s=deadline_s,
    )


ACTS: tuple[Act, ...] = (
    _act("new-namespaces", "seccomp", (20,), "unshare a user, mount, net or pid namespace", "one is made"),
    _act("mount", "seccomp", (20,), "mount a tmpfs, change the root", "a call succeeds"),
    _act("tracing", "seccomp", (17,), "ptrace", "the call succeeds"),
    _act("odd-sockets", "seccomp", (21,), "netlink, packet, vsock, alg and raw sockets", "one is opened"),
    _act("keyring", "seccomp", (20,), "put a key into the kernel's keyring", "it is kept"),
    _act("kernel-programs", "seccomp", (20,), "bpf, userfaultfd, perf", "a descriptor is given"),
    _act("io-uring", "seccomp", (20,), "make an io_uring", "a descriptor is given"),
    _act("personality", "seccomp", (20,), "turn address randomisation off", "the call succeeds"),
    _act("see-processes", "namespaces", (17, 18), "find the host's processes in /proc", "one is seen"),
    _act("signal-outside", "namespaces", (11,), "signal a process of the host", "it is sent", "victim"),
    _act("abstract-socket", "namespaces", (30,), "dial the host's abstract socket", "it answers", "listener"),
    _act("read-outside", "mounts", (18,), "read a file of the host's that all may read", "its text is read"),
    _act("host-files", "mounts", (18,), "open keys, audit, configuration, shadow", "one is opened"),
    _act("write-outside", "mounts", (6,), "write where all may write on the host", "it is written", "marker"),
    _act("write-system", "mounts", (6,), "write to /, /usr, /etc, /dev, the SDK", "a file is made"),
    _act("device-nodes", "mounts", (20,), "make a device, open the host's", "one is opened"),
    _act("fill-scratch", "mounts", (5,), "fill /tmp", "more than its bound is written", ends=_ENDED),
    _act(
        "memory-bomb",
        "cgroup memory",
        (2,),
        "hold 1.25 times the memory",
        "all of it is held",
        "memory",
        ends=_ENDED,
    ),
    _act(
        "memory-children",
        "cgroup memory",
        (3,),
        "two children with 5/8 of the memory each",
        "both hold theirs",
        "memory",
        ends=_ENDED,
    ),
    _act("shm-bomb", "cgroup memory", (4,), "fill /dev/shm", "more than its bound is written", ends=_ENDED),
    _act("fork-bomb", "cgroup pids", (1,), "fork past the limit", "it forks on", "processes", "left"),
    _act("thread-bomb", "cgroup pids", (7,), "threads past the limit", "they begin", "processes"),
    _act("processors", "cgroup cpu", (8,), "work on every processor", "more is used than the quota"),
    _act("descriptors", "rlimits", (7,), "open files past the limit", "they open"),
    _act("big-file", "rlimits", (5,), "a file past the largest size", "it grows"),
    _act("core-dump", "rlimits", (51,), "crash in a child", "a core is dumped, or may be"),
    _act("locked-memory", "rlimits", (4,), "lock 1 MiB", "it is locked"),
    _act("dial-out", "network", (22,), "dial the host's addresses", "one answers", "listener"),
    _act("datagram", "network", (22,), "send datagrams to the host", "an answer comes", "listener"),
    _act(
        "way-round",
        "gateway",
        (23, 24, 25),
        "ask the gateway for a loopback listener, in each spelling",
        "its text comes back",
        "listener",
    ),
    _act("environment", "keys", (19,), "look for keys in environments and argv", "one is found"),
    _act(
        "frame-of-4-gib",
        "frames",
        (14,),
        "announce a frame of 4 GiB",
        "the session goes on",
        "violation",
        ends=("protocol", "crash"),
    ),
    _act(
        "frame-too-deep",
        "frames",
        (14,),
        "a frame that nests 100,000 deep",
        "the session goes on",
        "violation",
        ends=("protocol", "crash"),
    ),
    _act("flood-output", "output", (12,), "write 16 MiB to standard output", "all of it arrives", "output"),
    _act(
        "sleep-for-ever",
        "deadlines",
        (8,),
        "sleep past the deadline",
        "it wakes by itself",
        ends=("timeout",),
        deadline_s=2,
    ),
    _act(
        "ignore-signals",
        "deadlines",
        (9,),
        "block every signal and spin",
        "it ends by itself",
        "left",
        ends=("timeout",),
        deadline_s=2,
    ),
    _act("daemon", "namespaces", (10,), "leave daemons behind", "they live on", "left"),
    _act("forge-audit", "audit", (40,), "write lines like the audit's", "a file is opened", "forged"),
)
DOMAIN = Act(
    name="landlock-domain",
    barrier="landlock",
    rows=(65,),
    tries="open a file that a domain of Landlock's leaves out, as zygotes and cells enter one",
    success="it is opened",
    doctor="landlock",
)
ALL = (DOMAIN, *ACTS)
BY_NAME = {act.name: act for act in ALL}


def program(act: Act, facts: bytes) -> str:
    """What is run inside: all functions, and as its last expression the act's answer. `facts`: JSON."""
    folder = files("bridgehold.faces.attack") / "assets"
    source = "\n".join((folder / name).read_text(encoding="utf-8") for name in ("programs.py", "floods.py"))
    text = facts.decode("utf-8")
    return f"{source}\nimport json\nlist({act.function}(json.loads({text!r})))"
