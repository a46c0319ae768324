"""The folders that a host's processes write to: made for a start, or only looked at before one."""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import shlex
import shutil
import stat
from pathlib import Path

import msgspec

from bridgehold import writes
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config, load_config
from bridgehold.errors import ConfigError
from bridgehold.supervisor import plans

_OWN = "Use a folder of your own: set BRIDGEHOLD_HOME, or run as the user who made it."


class Wanted(msgspec.Struct, frozen=True):
    """One folder; those without a `mode` are only made where they are missing, and stay whose they are."""

    path: Path
    uid: int = 0
    group: int = 0
    mode: int = 0


def wanted(layout: Layout, roles: plans.Roles, *, pushed: bool = False) -> tuple[Wanted, ...]:
    """All in the order in which they are made; as root, one owner per role. `pushed`: there are sinks."""
    return (
        Wanted(layout.config),
        Wanted(layout.state),
        Wanted(layout.run),
        Wanted(layout.audit, roles.journal, roles.host, 0o2750),  # the host folds budgets from it
        Wanted(layout.anchors, roles.journal, roles.host, 0o2755),
        Wanted(layout.run, roles.host, roles.host, 0o711),
        Wanted(layout.wheels, roles.host, roles.host, 0o755),
        Wanted(layout.environments, roles.host, roles.host, 0o755),
        Wanted(layout.secrets, roles.keeper, roles.keeper, 0o700),
        Wanted(layout.artifacts, roles.host, roles.host, 0o700),
        Wanted(layout.quarantine, roles.host, roles.host, 0o700),
        Wanted(layout.proposals, roles.host, roles.host, 0o700),
        Wanted(layout.audit_index, roles.host, roles.host, 0o700),
        *((Wanted(layout.push, roles.push, roles.host, 0o2750),) if pushed else ()),
        Wanted(layout.uids, os.getuid(), os.getuid(), 0o700),
    )


def prepare_folders(layout: Layout, config: Config, *, service: bool = False) -> None:
    """Make the layout's folders with their owners and modes. Raises `ConfigError`, or `OSError`.

    `service`: as of `plans.plan`.
    """
    roles = plans.roles(config)
    for one in wanted(layout, roles, pushed=bool(config.push)):
        if one.mode:
            _own(one)
        else:
            writes.make_folder(one.path)
            if one.path != layout.run:  # which gets its mode below
                _check_passable(one.path)
    _give_secrets(layout.secrets, roles.keeper)
    if plans.has_cells(config, service=service):
        _make_for_cells(layout)


def check_folders(layout: Layout, config: Config) -> None:
    """Change nothing; raise the `ConfigError` that `prepare_folders` would end with, for this user."""
    for one in wanted(layout, plans.roles(config), pushed=bool(config.push)):
        place = one.path
        while not os.path.lexists(place) and place != place.parent:
            place = place.parent
        try:
            owner, readonly = place.stat().st_uid, os.statvfs(place).f_flag & os.ST_RDONLY
        except OSError as error:
            raise ConfigError(f"can't be looked at: {error.strerror}", where=str(place), hint=_OWN) from error
        if place == one.path:
            if one.mode and os.geteuid() not in (0, owner):
                raise _of_somebody_else(one.path)
            fine = not (one.mode and readonly)  # a mode of ours is put back
            if not one.mode and one.path != layout.run:
                _check_passable(place)
        else:
            fine = os.access(place, os.W_OK | os.X_OK, effective_ids=True)
        if not fine:
            why = ": its file system is read-only" if readonly else ""
            raise ConfigError(f"uid {os.geteuid()} can't write {place}{why}", where=str(one.path), hint=_OWN)


def _check_passable(path: Path) -> None:
    """As root: raises `ConfigError` for a folder that is root's alone, since roles have to read in it."""
    if os.geteuid() == 0 and not path.stat().st_mode & stat.S_IXOTH:
        raise ConfigError(
            "closed to the users that the host's processes run as",
            where=str(path),
            hint=f"`chmod o+x {shlex.quote(str(path))}`: what is private in it has a mode of its own.",
        )


def _make_for_cells(layout: Layout) -> None:
    """What a cell that began before it could never open; where it can't be made, nobody needs it yet."""
    for folder in (layout.policies, layout.bridges):
        if os.path.lexists(folder):
            continue
        with contextlib.suppress(OSError):
            writes.make_folder(folder)
            if os.getuid() == 0:
                owner = layout.config.stat()
                writes.give(folder, owner.st_uid, owner.st_gid, 0o755)


def _of_somebody_else(path: Path) -> ConfigError:
    return ConfigError(f"{path} belongs to somebody else", where=str(path), hint=_OWN)


def _give_secrets(folder: Path, uid: int) -> None:
    """Keys that root set before the first start were root's: they become the keeper's."""
    if os.getuid() != 0:
        return
    for path in folder.iterdir():
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            facts = os.fstat(descriptor)
            if facts.st_uid == 0 and facts.st_nlink == 1:
                os.fchown(descriptor, uid, uid)
        finally:
            os.close(descriptor)


def _own(one: Wanted) -> None:
    try:
        writes.make_folder(one.path)
        writes.give(one.path, one.uid, one.group, one.mode)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise ConfigError(
                f"a link, or a file, stands for {one.path}",
                where=str(one.path),
                hint="Look who put it there; remove it.",
            ) from error
        if not isinstance(error, PermissionError):
            raise
        raise _of_somebody_else(one.path) from error


def hand_over_credentials(layout: Layout) -> str:
    """The folder of systemd's credentials, readable by the keeper's role; empty where there is none.

    systemd gives them to the service's own user. As root that is not the keeper's uid, so they are
    laid into the runtime folder (a tmpfs) for that uid alone.
    """
    source = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not source or os.getuid() != 0:
        return source
    keeper = plans.roles(load_config(layout.config_file)).keeper
    target = layout.run / "credentials"
    shutil.rmtree(target, ignore_errors=True)
    writes.make_folder(target, mode=0o700, new=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with writes.our_folder(target, beneath=layout.run) as folder:  # the runtime folder is another role's
        for path in Path(source).iterdir():
            with os.fdopen(os.open(path.name, flags, 0o400, dir_fd=folder), "wb") as file:
                file.write(path.read_bytes())
                os.fchown(file.fileno(), keeper, keeper)
        os.fchown(folder, keeper, keeper)
    return str(target)


def could_start(layout: Layout, config: Config) -> None:
    """Load whatever a host's processes are made of, and look for what they run and where they write.

    Raises what a start by this user would.
    """
    from bridgehold.sandbox.launch.bwrap import met_bwrap  # of no use to a supervisor

    check_folders(layout, config)
    met_bwrap()
    for module in plans.MODULES.values():
        importlib.import_module(module)
