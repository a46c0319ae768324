"""Control groups, v2 and v1, behind one interface: one parent for all sessions, one leaf for each.

The parent holds a reserve back for the host, so that sessions together can't starve it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox.values import Resources, Usage


class SessionCgroup(Protocol):
    """One session's leaf."""

    path: str

    def enter(self) -> None:
        """In the forked child, before its uid changes: move itself in. Raises on any failure."""

    def holds(self, pid: int) -> bool: ...

    def oom_fd(self) -> int | None:
        """Readable once something in it was killed for memory."""

    def usage(self) -> Usage: ...

    def lift(self) -> None:
        """Lift the cpu quota and thaw, so that dying is quick."""

    def kill(self) -> None:
        """SIGKILL to every process, one pass."""

    def processes(self) -> list[int]: ...

    def remove(self) -> None: ...


class CgroupParent(Protocol):
    capacity_bytes: int
    """What sessions may use together."""

    @property
    def version(self) -> Literal["v2", "v1", "none"]: ...

    def create(self, name: str, resources: Resources) -> SessionCgroup: ...

    def sweep(self) -> list[str]: ...

    def close(self) -> None: ...


def open_parent(choice: str = "auto", *, reserve_bytes: int, instance: str) -> CgroupParent:
    """The parent that `choice` (``auto``, ``v2``, ``v1``, ``none`` or ``v1:/NAME``) selects.

    ``auto`` takes what works when tried: v2 if it is delegated to us, then v1. Raises
    `UnsupportedError` with every reason where none does; ``none`` must be asked for by name.
    """
    from bridgehold.sandbox.cgroups import none, v1, v2

    if choice == "none":
        return none.Parent()
    tries: dict[str, Callable[..., CgroupParent]] = {"v2": v2.open_parent, "v1": v1.open_parent}
    wanted = [choice.partition(":")[0]] if choice != "auto" else ["v2", "v1"]
    reasons = []
    for version in wanted:
        if version not in tries:
            raise UnsupportedError(f"no cgroup choice {choice!r}", hint="auto, v2, v1, none or v1:/NAME")
        base = choice.partition(":")[2]
        try:
            return tries[version](base, reserve_bytes=reserve_bytes, instance=instance)
        except (OSError, UnsupportedError) as error:
            reasons.append(f"{version}: {error}")
    raise UnsupportedError(
        "no cgroup can be had: " + "; ".join(reasons),
        hint="Run as a systemd service with Delegate=yes, or allow the weakening no_cgroup "
        '(`[host] cgroup = "none"`). docs/how-to/ordinary-user.md shows both.',
    )
