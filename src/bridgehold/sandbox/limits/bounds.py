"""The launcher's own bounds on what the host may ask for: it does not trust the host (pure).

A host that hostile bytes took over can ask for sandboxes of bridges that exist; it can't ask for a
bind of somebody's home, more memory than there is, or a sandbox without a filter.
Paths are judged as texts here; `staging` opens them beneath their root, so that no link and no
later rename leads out.
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath

import msgspec

from bridgehold.errors import DeniedError
from bridgehold.sandbox.values import Mount, Resources, SandboxSpec

SYSTEM_FILES = frozenset(
    (
        *("/etc/ssl", "/etc/ca-certificates", "/etc/ld.so.cache", "/etc/localtime", "/etc/alternatives"),
        *("/etc/services", "/etc/protocols", "/etc/mime.types", "/etc/fonts"),
    )
)
"""What of /etc may be bound: root's own, readable by all, without secrets."""

_MAX_ARGUMENTS = 64
_MAX_MOUNTS = 256
_MAX_TEXT = 64 * 1024
_MAX_CPU_MILLIS = 1_024_000
_MAX_OPEN_FILES = 1 << 20
_MAX_FILE_SIZE = 1 << 44
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")
_HOSTNAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_PROC_FILES = ("/proc/meminfo", "/proc/cpuinfo")
"""What a sandbox may have of its own there: files whose text is the spec's."""
_OWN_TARGETS = {"/proc": "proc", "/dev": "dev", "/dev/shm": "tmpfs"}  # noqa: S108 - inside the sandbox


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    """What the launcher allows at most, whatever the host asks for."""

    read_roots: tuple[str, ...]
    """Host folders below which read-only binds may lie."""
    build_root: str
    """The one folder directly in which trees are sealed, and emptied."""
    max_memory_bytes: int
    devices: tuple[str, ...] = ()
    """Device files that may be bound, each at its own place."""
    max_processes: int = 8192
    weakenings: tuple[str, ...] = ()


def check(spec: SandboxSpec, bounds: Bounds) -> None:
    """Raise `DeniedError` naming the first thing of `spec` that the bounds forbid."""
    _check_texts(spec)
    _check_resources(spec.resources, bounds)
    if spec.gateway_port and not 1024 <= spec.gateway_port <= 65535:
        raise _denied(f"a gateway at port {spec.gateway_port}")
    if spec.callback_port and (
        spec.kind != "worker" or not spec.gateway_port or spec.callback_port == spec.gateway_port
    ):
        raise _denied("a listener for callbacks without a gateway, at its port, or of what is no worker")
    if not 0 <= spec.callback_port <= 65535 or 0 < spec.callback_port < 1024:
        raise _denied(f"a listener for callbacks at port {spec.callback_port}")
    if spec.kind not in ("worker", "zygote") and spec.gateway_port:
        raise _denied(f"a gateway in a sandbox of kind {spec.kind}")
    for mount in spec.mounts:
        _check_target(mount)
        _check_source(spec, mount, bounds)
    targets = [m.target for m in spec.mounts]
    if len(targets) != len(set(targets)):
        raise _denied("two mounts with one target")
    kinds = {m.target: m.kind for m in spec.mounts}
    if kinds.get("/proc") != "proc" or kinds.get("/dev") != "dev":
        raise _denied("a sandbox without a /proc and /dev of its own")


def check_fork(spec: SandboxSpec, zygote: SandboxSpec) -> None:
    """Raise `DeniedError` where `spec` is not what `zygote` was made for: a fork sees its mounts."""
    if (spec.kind, spec.start) != ("worker", "fork"):
        raise _denied(f"a fork of kind {spec.kind}, start {spec.start}")
    for name in ("tenant", "bridge", "mounts", "gateway_port", "working_directory", "seccomp", "weakenings"):
        if getattr(spec, name) != getattr(zygote, name):
            raise _denied(f"a fork whose {name} is not its zygote's")


def _check_texts(spec: SandboxSpec) -> None:
    """The arguments reach bubblewrap as NUL-separated options: a NUL would be an option of the host's."""
    if not spec.argv or len(spec.argv) > _MAX_ARGUMENTS or len(spec.mounts) > _MAX_MOUNTS:
        raise _denied(f"a command of 1 to 64 arguments with at most {_MAX_MOUNTS} mounts is needed")
    if not spec.argv[0].startswith("/"):
        raise _denied("a command that is no absolute path")
    texts = [*spec.argv, *(f"{name}={value}" for name, value in spec.environment), spec.working_directory]
    texts += [text for mount in spec.mounts for text in (mount.target, mount.source)]
    if sum(map(len, texts)) > _MAX_TEXT:
        raise _denied("arguments, environment and mounts of more than 64 KiB")
    for text in [*texts, *(mount.content for mount in spec.mounts)]:
        if "\0" in text or any("\ud800" <= character <= "\udfff" for character in text):
            raise _denied("a text with NUL or half a character")
    if not all(_VARIABLE.fullmatch(name) for name, _ in spec.environment):
        raise _denied("an environment variable whose name is none")
    if not _HOSTNAME.fullmatch(spec.hostname) or not spec.working_directory.startswith("/"):
        raise _denied("a hostname or working directory that is none")


def _check_resources(resources: Resources, bounds: Bounds) -> None:
    limits = {
        "memory_bytes": bounds.max_memory_bytes,
        "cpu_millis": _MAX_CPU_MILLIS,
        "processes": bounds.max_processes,
        "open_files": _MAX_OPEN_FILES,
        "file_size_bytes": _MAX_FILE_SIZE,
    }
    for name, most in limits.items():
        value = getattr(resources, name)
        if not 0 < value <= most:  # a negative rlimit is no limit at all
            raise _denied(f"{name} {value}; 1 to {most} are possible")


def _check_target(mount: Mount) -> None:
    target = mount.target
    if not _plain(target) or target == "/":
        raise _denied(f"a mount at {target!r}")
    if target in _OWN_TARGETS and mount.kind != _OWN_TARGETS[target]:
        raise _denied(f"a {mount.kind} at {target}")
    if mount.kind in ("proc", "dev") and _OWN_TARGETS.get(target) != mount.kind:
        raise _denied(f"a {mount.kind} at {target}")
    if mount.target in _PROC_FILES and mount.kind == "file":
        return
    if mount.kind in ("dir", "text") and _below(target, ("/sys",)):
        return
    if mount.kind != "device" and target not in _OWN_TARGETS and _below(target, ("/proc", "/dev", "/sys")):
        raise _denied(f"a mount at {target}")


def _check_source(spec: SandboxSpec, mount: Mount, bounds: Bounds) -> None:
    source = mount.source
    if mount.kind == "ro_bind" and not (
        _plain(source) and (_below(source, ("/usr", *bounds.read_roots)) or source in SYSTEM_FILES)
    ):
        raise _denied(f"a read-only bind of {source!r}")
    if mount.kind == "device" and not (
        spec.kind in ("worker", "zygote") and source == mount.target and source in bounds.devices
    ):
        raise _denied(f"a device {source!r} at {mount.target}")
    if mount.kind == "tmpfs" and not 0 < mount.size_bytes <= bounds.max_memory_bytes:
        raise _denied(f"a tmpfs of {mount.size_bytes} bytes at {mount.target}")
    if not 0 <= mount.mode <= 0o1777:
        raise _denied(f"mode {mount.mode:o} at {mount.target}")
    if mount.kind in ("file", "text") and len(mount.content) > _MAX_TEXT:
        raise _denied(f"a file of {len(mount.content)} bytes at {mount.target}")


def _plain(path: str) -> bool:
    """Absolute and normalised: no ``..``, no ``.``, no doubled or trailing slash."""
    pure = PurePosixPath(path)
    return pure.is_absolute() and ".." not in pure.parts and str(pure) == path and not path.startswith("//")


def _below(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(root.rstrip("/") + "/") for root in roots)


def _denied(what: str) -> DeniedError:
    return DeniedError(f"the launcher refuses {what}", hint="This spec did not come from a sound grant.")
