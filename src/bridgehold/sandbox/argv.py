"""SandboxSpec → bubblewrap's arguments (pure, golden-tested).

bubblewrap reads them from a descriptor, so that no process list shows them; its own argv is
``bwrap --args N``. The order of mounts is the spec's; /, /dev and every bind end read-only.
"""

from __future__ import annotations

from bridgehold.sandbox.values import Mount, SandboxSpec


def bwrap_arguments(
    spec: SandboxSpec, *, seccomp_fd: int, info_fd: int, files: dict[str, int]
) -> tuple[str, ...]:
    """Everything after ``bwrap``, the command included. `files`: target of a ``file`` mount → descriptor."""
    arguments = [
        "--unshare-user",
        "--disable-userns",
        "--unshare-ipc",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-uts",
        "--unshare-cgroup",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
        "--hostname",
        spec.hostname,
        "--clearenv",
        "--info-fd",
        str(info_fd),
        "--seccomp",
        str(seccomp_fd),
    ]
    for name, value in spec.environment:
        arguments += ["--setenv", name, value]
    for mount in spec.mounts:
        arguments += _mount(mount, files)
    arguments += ["--remount-ro", "/dev"]
    for mount in spec.mounts:
        if mount.target == "/dev/shm":  # noqa: S108 - inside: mounted again, because /dev went read-only under it
            arguments += _mount(mount, files)
    arguments += ["--remount-ro", "/", "--chdir", spec.working_directory, "--", *spec.argv]
    return tuple(arguments)


def _mount(mount: Mount, files: dict[str, int]) -> list[str]:
    mode = f"{mount.mode:04o}"
    options = {
        "ro_bind": ["--ro-bind", mount.source],
        "bind": ["--bind", mount.source],
        "tmpfs": ["--perms", mode, "--size", str(mount.size_bytes), "--tmpfs"],
        "dir": ["--perms", mode, "--dir"],
        "symlink": ["--symlink", mount.source],
        "proc": ["--proc"],
        "dev": ["--dev"],
        "file": ["--perms", "0444", "--ro-bind-data", str(files.get(mount.target, -1))],
    }
    return [*options[mount.kind], mount.target]
