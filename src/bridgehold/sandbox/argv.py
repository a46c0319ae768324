"""SandboxSpec → bubblewrap's arguments (pure, golden-tested).

bubblewrap reads them from a descriptor, so that no process list shows them; its own argv is
``bwrap --args N``. The order of mounts is the spec's; /, /dev and every bind end read-only.
"""

from __future__ import annotations

from collections.abc import Mapping

from bridgehold.sandbox.staging import PTS
from bridgehold.sandbox.values import Mount, SandboxSpec


def bwrap_arguments(
    spec: SandboxSpec,
    *,
    seccomp_fd: int,
    info_fd: int,
    block_fd: int,
    files: Mapping[str, int],
    staged: Mapping[str, str] | None = None,
    userns_block_fd: int | None = None,
    extra: tuple[str, ...] = (),
) -> tuple[str, ...]:
    """Everything after ``bwrap``, the command included.

    `files`: target of a ``file`` mount → descriptor. `staged`: target → where the launcher has put
    that mount's source already, in its own mount namespace (binds, and tmpfs with their inodes
    counted); a target that is not there is taken from the spec, as an ordinary path or size.

    `block_fd` holds the guest's first instruction back until the launcher has met its init. It opens
    at EOF too, so it orders things and protects nothing: the barriers all stand by then.

    `userns_block_fd`: of a zygote, whose user namespace the launcher maps; further ones are made in
    it, by the launcher alone, since its seccomp filter refuses them to the zygote. `extra` goes behind the
    command.
    """
    user = ["--disable-userns"] if userns_block_fd is None else ["--userns-block-fd", str(userns_block_fd)]
    arguments = [
        "--unshare-user",
        *user,
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
        "--block-fd",
        str(block_fd),
        "--seccomp",
        str(seccomp_fd),
    ]
    for name, value in spec.environment:
        arguments += ["--setenv", name, value]
    below_dev = [m for m in spec.mounts if m.target.startswith("/dev/") and m.kind != "device"]
    for mount in spec.mounts:
        if mount not in below_dev:
            arguments += _mount(mount, files, staged or {})
    # Before what lies below it: bubblewrap's /dev is a tmpfs without a size, and /dev/shm a folder of it.
    arguments += ["--remount-ro", "/dev"]
    for mount in below_dev:
        arguments += _mount(mount, files, staged or {})
    if staged and PTS in staged:  # over bubblewrap's own, which has no bound
        arguments += ["--dev-bind", staged[PTS], PTS]
    arguments += ["--remount-ro", "/", "--chdir", spec.working_directory, "--", *spec.argv, *extra]
    return tuple(arguments)


def _mount(mount: Mount, files: Mapping[str, int], staged: Mapping[str, str]) -> list[str]:
    mode = f"{mount.mode:04o}"
    source = staged.get(mount.target, mount.source)
    if mount.kind == "tmpfs" and mount.target in staged:
        return ["--bind", source, mount.target]
    options = {
        "ro_bind": ["--ro-bind", source],
        "tmpfs": ["--perms", mode, "--size", str(mount.size_bytes), "--tmpfs"],
        "dir": ["--perms", mode, "--dir"],
        "symlink": ["--symlink", mount.source],
        "proc": ["--proc"],
        "dev": ["--dev"],
        "device": ["--dev-bind", source],
        "file": ["--perms", "0444", "--ro-bind-data", str(files.get(mount.target, -1))],
    }
    return [*options[mount.kind], mount.target]
