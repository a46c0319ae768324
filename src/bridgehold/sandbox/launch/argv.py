"""SandboxSpec → bubblewrap's arguments (pure, golden-tested).

bubblewrap reads them from a descriptor, so that no process list shows them; its own argv is
``bwrap --args N``. The order of mounts is the spec's; /, /dev and every bind end read-only.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import PurePosixPath

from bridgehold.errors import UnsupportedError
from bridgehold.sandbox.guest_files import HELD, held_place, is_proc_file
from bridgehold.sandbox.launch.bwrap import DISABLE_USERNS, SIZE
from bridgehold.sandbox.launch.staging import PTS
from bridgehold.sandbox.values import GUEST_UID, Mount, SandboxSpec


def bwrap_arguments(
    spec: SandboxSpec,
    *,
    known: Collection[str],
    seccomp_fd: int,
    info_fd: int,
    block_fd: int,
    files: Mapping[str, int],
    staged: Mapping[str, str] | None = None,
    userns_block_fd: int | None = None,
    extra: tuple[str, ...] = (),
    hidden: tuple[str, ...] = ("locks",),
) -> tuple[str, ...]:
    """Everything after ``bwrap``, the command included.

    `known`: bubblewrap's own options. Raises `UnsupportedError` where a bound needs one that it lacks.

    `files`: target of a ``file`` or ``text`` → descriptor. `staged`: target → where the launcher has put that
    mount's source already, in its own mount namespace (binds, and tmpfs with their inodes
    counted); a target that is not there is taken from the spec, as an ordinary path or size.

    `block_fd` holds the guest's first instruction back until the launcher has met its init. It opens
    at EOF too, so it orders things and protects nothing: the barriers all stand by then.

    `userns_block_fd`: of a zygote, whose user namespace the launcher maps; further ones are made in
    it, by the launcher alone, since its seccomp filter refuses them to the zygote. `extra` goes behind the
    command. `hidden`: files of /proc that are the machine's.
    """
    if userns_block_fd is not None:
        user = ["--userns-block-fd", str(userns_block_fd)]
    else:
        user = [f"--{DISABLE_USERNS}"] if DISABLE_USERNS in known else []
    unbound = [m.target for m in spec.mounts if m.kind == "tmpfs" and m.target not in (staged or {})]
    if unbound and SIZE not in known:
        raise UnsupportedError(
            f"{unbound[0]} can have no bound: this bubblewrap has no --{SIZE}",
            hint="Install bubblewrap 0.7 or newer, or give this user a range of subordinate ids.",
        )
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
        *(() if userns_block_fd is not None else ("--uid", str(GUEST_UID), "--gid", str(GUEST_UID))),
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
    zygote = userns_block_fd is not None
    arguments += _mounts(spec, files, staged or {}, hidden, zygote=zygote)
    arguments += ["--chdir", spec.working_directory, "--", *spec.argv, *extra]
    return tuple(arguments)


def _mounts(
    spec: SandboxSpec,
    files: Mapping[str, int],
    staged: Mapping[str, str],
    hidden: tuple[str, ...],
    *,
    zygote: bool,
) -> list[str]:
    """All mounts in the spec's order; what lies below /dev comes after /dev has ended read-only.

    A zygote's files of /proc lie elsewhere, for its forks.
    """
    held = [mount for mount in spec.mounts if zygote and is_proc_file(mount)]
    below_dev = [m for m in spec.mounts if m.target.startswith("/dev/") and m.kind != "device"]
    arguments: list[str] = []
    for mount in spec.mounts:
        if mount not in below_dev and mount not in held:
            arguments += _mount(mount, files, staged)
    for folder in (
        (*reversed([str(parent) for parent in PurePosixPath(HELD).parents[:-1]]), HELD) if held else ()
    ):
        arguments += ["--perms", "0755", "--dir", folder]
    for mount in held:
        arguments += ["--perms", "0444", "--file", str(files.get(mount.target, -1)), held_place(mount)]
    # Before what lies below it: bubblewrap's /dev is a tmpfs without a size, and /dev/shm a folder of it.
    arguments += ["--remount-ro", "/dev"]
    for mount in below_dev:
        arguments += _mount(mount, files, staged)
    if PTS in staged:  # over bubblewrap's own, which has no bound
        arguments += ["--dev-bind", staged[PTS], PTS]
    for mount in spec.mounts:
        # (Below a cover no further /proc is to be had, and a zygote's forks need one.)
        if mount.kind == "proc" and spec.kind != "zygote":
            arguments += [
                word for name in hidden for word in ("--ro-bind", "/dev/null", f"{mount.target}/{name}")
            ]
            # A guest owns its namespaces' own settings there; what is seen through any /proc is the reader's.
            arguments += ["--ro-bind", "/proc/sys", f"{mount.target}/sys"]
    return [*arguments, "--remount-ro", "/"]


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
        "text": ["--perms", "0444", "--file", str(files.get(mount.target, -1))],
        "file": ["--perms", "0444", "--ro-bind-data", str(files.get(mount.target, -1))],
    }
    return [*options[mount.kind], mount.target]
