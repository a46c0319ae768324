"""Where the control groups are: /proc/self/cgroup and /proc/self/mountinfo, read as values (pure)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from bridgehold.sandbox import procfs

_ESCAPES = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\"))


class Hierarchy(msgspec.Struct, frozen=True, kw_only=True):
    """One mounted hierarchy. `root` is the cgroup that is seen at `mount` (containers see a part)."""

    mount: Path
    root: str
    controllers: frozenset[str]
    """v1 controllers, or empty for v2."""

    def folder(self, path: str) -> Path | None:
        """The folder of the cgroup that /proc names `path`; None where the mount doesn't show it."""
        root = self.root.rstrip("/")
        if path != root and not path.startswith(root + "/"):
            return None
        return self.mount / path[len(root) :].lstrip("/")

    def name(self, folder: Path) -> str:
        """The path that /proc shows for a process in `folder`."""
        relative = folder.relative_to(self.mount).as_posix()
        return self.root.rstrip("/") + "/" + ("" if relative == "." else relative)


def own_cgroups(text: str) -> dict[str, str]:
    """/proc/PID/cgroup: controller (``""`` for v2) to path."""
    found: dict[str, str] = {}
    for line in procfs.lines(text):
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            found[controller] = path
    return found


def hierarchies(mountinfo: str, version: str) -> list[Hierarchy]:
    """The cgroup mounts of `version` (``v1`` or ``v2``), in the order of /proc/self/mountinfo."""
    found = []
    for line in procfs.lines(mountinfo):
        before, _, after = line.partition(" - ")
        fields, details = before.split(), after.split()
        if len(fields) < 5 or len(details) < 3:
            continue
        if details[0] != ("cgroup2" if version == "v2" else "cgroup"):
            continue
        controllers = frozenset(details[2].split(",")) if version == "v1" else frozenset[str]()
        found.append(
            Hierarchy(mount=Path(_plain(fields[4])), root=_plain(fields[3]), controllers=controllers)
        )
    return found


def _plain(text: str) -> str:
    for escape, character in _ESCAPES:
        text = text.replace(escape, character)
    return text
