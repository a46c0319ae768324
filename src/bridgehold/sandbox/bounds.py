"""What the launcher does for the host, and no more: it does not trust the host that asks (pure).

A host that hostile bytes took over can ask for sandboxes of bridges that exist; it can't ask for a
bind of somebody's home, a writable bind, more memory than there is, or a sandbox without a filter.
"""

from __future__ import annotations

import os
from pathlib import PurePosixPath

import msgspec

from bridgehold.errors import DeniedError
from bridgehold.sandbox.values import Mount, SandboxSpec

_MAX_ARGUMENTS = 64
_MAX_TEXT = 64 * 1024


class Bounds(msgspec.Struct, frozen=True, kw_only=True):
    read_roots: tuple[str, ...]
    """Host folders below which read-only binds may lie."""
    build_root: str
    """The one folder below which an installer's writable bind may lie."""
    max_memory_bytes: int
    max_processes: int = 8192
    weakenings: tuple[str, ...] = ()


def check(spec: SandboxSpec, bounds: Bounds) -> None:
    """Raise `DeniedError` naming the first thing of `spec` that the bounds forbid."""
    if not spec.argv or len(spec.argv) > _MAX_ARGUMENTS:
        raise _denied("a command of 1 to 64 arguments is needed")
    texts = [*spec.argv, *(f"{k}={v}" for k, v in spec.environment), spec.hostname, spec.working_directory]
    if any("\0" in text for text in texts) or sum(map(len, texts)) > _MAX_TEXT:
        raise _denied("arguments or environment with NUL, or of more than 64 KiB")
    if not 0 < spec.resources.memory_bytes <= bounds.max_memory_bytes:
        raise _denied(f"{spec.resources.memory_bytes} bytes of memory")
    if not 0 < spec.resources.processes <= bounds.max_processes or spec.resources.cpu_millis <= 0:
        raise _denied("a limit of processes or cpu out of bounds")
    for mount in spec.mounts:
        _check_mount(spec, mount, bounds)
    targets = [m.target for m in spec.mounts]
    if len(targets) != len(set(targets)):
        raise _denied("two mounts with one target")


def _check_mount(spec: SandboxSpec, mount: Mount, bounds: Bounds) -> None:
    target = PurePosixPath(mount.target)
    if not target.is_absolute() or ".." in target.parts or str(target) != mount.target or mount.target == "/":
        raise _denied(f"a mount at {mount.target!r}")
    if mount.kind == "ro_bind" and not _below(mount.source, bounds.read_roots):
        raise _denied(f"a read-only bind of {mount.source}")
    if mount.kind == "bind" and (spec.kind != "installer" or not _below(mount.source, (bounds.build_root,))):
        raise _denied(f"a writable bind of {mount.source}")
    if mount.kind == "tmpfs" and not 0 < mount.size_bytes <= bounds.max_memory_bytes:
        raise _denied(f"a tmpfs of {mount.size_bytes} bytes at {mount.target}")
    if mount.kind == "file" and len(mount.content) > _MAX_TEXT:
        raise _denied(f"a file of {len(mount.content)} bytes at {mount.target}")


def _below(source: str, roots: tuple[str, ...]) -> bool:
    """Whether `source`, with every link resolved, lies in one of `roots` (resolved as well)."""
    real = os.path.realpath(source)
    return any(
        real == root or real.startswith(root.rstrip("/") + "/") for root in map(os.path.realpath, roots)
    )


def _denied(what: str) -> DeniedError:
    return DeniedError(f"the launcher refuses {what}", hint="This spec did not come from a sound grant.")
