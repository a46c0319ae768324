"""Files that tell a guest of itself: its user and host names, its memory and processors (pure).

Libraries read the machine's memory and processors where these would be missing, plan for all of it, and
end their session. What is here are the session's own, as its policy grants them. They are for honest
code; what holds are the cgroup and the limits.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from bridgehold.sandbox.values import GUEST_NAME, GUEST_UID, Mount, Resources

HELD = "/opt/bridgehold/proc"
"""Where a zygote keeps what its forks have in their /proc: over its own, they could not mount a new one."""
_CPU_PERIOD_US = 100_000
_MAX_CPUINFO = 32 * 1024
_CPU = "/sys/devices/system/cpu"
_MAX_FOLDERS, _MAX_TOPOLOGIES = 64, 16
"""Of processors in /sys; of more, `online` tells alone."""
_NOBODY = 65534
_LONG_FIELDS = ("flags", "bugs", "vmx flags", "Features")

_PASSWD = f"""\
root:x:0:0:root:/:/usr/sbin/nologin
{GUEST_NAME}:x:{GUEST_UID}:{GUEST_UID}:{GUEST_NAME}:{{home}}:/bin/sh
nobody:x:{_NOBODY}:{_NOBODY}:nobody:/nonexistent:/usr/sbin/nologin
"""
_GROUP = f"root:x:0:\n{GUEST_NAME}:x:{GUEST_UID}:\nnogroup:x:{_NOBODY}:\n"
_HOSTS = """\
127.0.0.1 localhost
::1 localhost ip6-localhost ip6-loopback
127.0.1.1 {host}
"""
_NSSWITCH = "".join(
    f"{name}: files\n" for name in ("passwd", "group", "hosts", "services", "protocols", "networks")
)


def names(host: str, home: str) -> tuple[Mount, ...]:
    """The user that the guest is, its groups, and what its host is called. `home`: a folder inside."""
    return (
        Mount(kind="file", target="/etc/passwd", content=_PASSWD.format(home=home)),
        Mount(kind="file", target="/etc/group", content=_GROUP),
        Mount(kind="file", target="/etc/hosts", content=_HOSTS.format(host=host)),
        Mount(kind="file", target="/etc/nsswitch.conf", content=_NSSWITCH),
    )


def processors(cpu_millis: int) -> int:
    """How many processors that share of time is worth to who starts a thread for each."""
    return max(1, -(-cpu_millis // 1000))


def limits(resources: Resources, cpuinfo: str) -> tuple[Mount, ...]:
    """What `/proc` and `/sys` say of memory and processors. `cpuinfo`: the machine's; empty: not known.

    `/proc/cpuinfo` has as many of the machine's processors as the session has.
    """
    count = processors(resources.cpu_millis)
    files = [Mount(kind="file", target="/proc/meminfo", content=_meminfo(resources.memory_bytes))]
    shown = shown_processors(cpuinfo, count)
    if shown:
        files.append(Mount(kind="file", target="/proc/cpuinfo", content=shown))
    texts = dict(_cgroup(resources)) | dict(_sys_processors(count))
    folders = (
        *(f"{_CPU}/cpu{number}" for number in range(min(count, _MAX_FOLDERS))),
        *("/sys/class/hwmon", "/sys/class/net", "/sys/class/power_supply", "/sys/class/thermal"),
        *("/sys/block", "/sys/devices/system/node"),
    )
    return (
        *files,
        *(Mount(kind="text", target=target, content=text) for target, text in texts.items()),
        *(Mount(kind="dir", target=folder) for folder in folders),
    )


HIDDEN = ("locks", "pressure/cpu", "pressure/io", "pressure/irq", "pressure/memory")
"""Of /proc: what is the machine's, and costs others where it is read or written. The list that holds up who
takes a lock; what others' work makes the machine wait for, with triggers that nobody is charged for."""


def hidden() -> tuple[str, ...]:
    """Those that this kernel has."""
    return tuple(name for name in HIDDEN if os.access(f"/proc/{name}", os.F_OK))


def is_proc_file(mount: Mount) -> bool:
    """Whether it lies over a file of /proc."""
    return mount.kind == "file" and mount.target.startswith("/proc/")


def held_place(mount: Mount) -> str:
    """Where a zygote has the file that its forks find at `mount`'s target."""
    return HELD + mount.target.removeprefix("/proc")


def shown_processors(cpuinfo: str, count: int) -> str:
    """The first `count` processors of a /proc/cpuinfo, as those of one package; empty where it has none."""
    stanzas = [stanza for stanza in cpuinfo.split("\n\n") if stanza.startswith("processor")][:count]
    if not stanzas:
        return ""
    stanzas += [stanzas[-1]] * (count - len(stanzas))
    brief = sum(map(len, stanzas)) > _MAX_CPUINFO
    own = {"siblings": str(count), "cpu cores": str(count), "physical id": "0"}
    shown = []
    for number, stanza in enumerate(stanzas):
        per = own | dict.fromkeys(("processor", "core id", "apicid", "initial apicid"), str(number))
        lines = []
        for line in stanza.splitlines():
            name = line.partition(":")[0].strip()
            if brief and number and name in _LONG_FIELDS:
                continue
            lines.append(f"{line.partition(':')[0]}: {per[name]}" if name in per else line)
        shown.append("\n".join(lines) + "\n")
    return "\n".join(shown) + "\n"


def _meminfo(memory_bytes: int) -> str:
    total = memory_bytes // 1024
    values = {"MemTotal": total, "MemFree": total, "MemAvailable": total}
    nothing = ("Buffers", "Cached", "SwapCached", "Active", "Inactive", "SwapTotal", "SwapFree", "Dirty")
    values |= dict.fromkeys((*nothing, "Writeback", "Mapped", "Shmem", "Slab", "SReclaimable"), 0)
    return "".join(f"{name + ':':<16}{value:>9} kB\n" for name, value in values.items())


def _cgroup(resources: Resources) -> Iterator[tuple[str, str]]:
    """Both versions: a library looks for the one that /proc/self/cgroup names."""
    quota = resources.cpu_millis * _CPU_PERIOD_US // 1000
    for name, value in (
        ("cgroup.controllers", "cpu memory pids"),
        ("memory.max", str(resources.memory_bytes)),
        ("memory.swap.max", "0"),
        ("cpu.max", f"{quota} {_CPU_PERIOD_US}"),
        ("pids.max", str(resources.processes)),
        ("memory/memory.limit_in_bytes", str(resources.memory_bytes)),
        ("cpu/cpu.cfs_quota_us", str(quota)),
        ("cpu/cpu.cfs_period_us", str(_CPU_PERIOD_US)),
        ("pids/pids.max", str(resources.processes)),
    ):
        yield f"/sys/fs/cgroup/{name}", value + "\n"


def _sys_processors(count: int) -> Iterator[tuple[str, str]]:
    """One package of `count` cores with a thread each."""
    for name in ("online", "possible", "present"):
        yield f"{_CPU}/{name}", _range(count)
    for number in range(count if count <= _MAX_TOPOLOGIES else 0):
        for name, value in (
            ("core_id", str(number)),
            ("physical_package_id", "0"),
            ("thread_siblings", f"{1 << number:x}"),
            ("thread_siblings_list", str(number)),
            ("core_siblings", f"{(1 << count) - 1:x}"),
        ):
            yield f"{_CPU}/cpu{number}/topology/{name}", value + "\n"


def _range(count: int) -> str:
    return "0\n" if count == 1 else f"0-{count - 1}\n"
