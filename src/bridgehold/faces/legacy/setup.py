"""Sets a foreign profile up on a layout: its files, its lock, and what a host that runs has to be told."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from bridgehold import reads, writes
from bridgehold.bridges.catalogue import Catalogue
from bridgehold.client.client import connect
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config, load_config
from bridgehold.config.machine import real_folders
from bridgehold.error_texts import mending
from bridgehold.errors import BridgeholdError, ConfigError, DependencyError, HostUnavailableError, UsageError
from bridgehold.faces.authoring.locking import lock
from bridgehold.faces.legacy import profile as texts
from bridgehold.faces.legacy.profile import MARK, Profile
from bridgehold.keeper.admin import SecretAdmin
from bridgehold.policies.model import MIB
from bridgehold.policies.units import parse_size
from bridgehold.sandbox.cgroups.admission import machine_capacity
from bridgehold.sandbox.envs.lock import parse_lock
from bridgehold.sandbox.envs.resolving import read_requirements

_MOST_SCRIPTS, _MOST_BYTES = 2_000, 2 * MIB
_DEFAULT = ("openai", "anthropic", "gemini")
"""Providers of a tenant that has no key yet."""
_SURPLUS = 0.8
"""Of what sessions have together; the rest is for whoever else there is."""


def folders(roots: list[Path]) -> tuple[str, ...]:
    """Where they really are, each once. Raises `UsageError` for what is no folder, or holds everything."""
    found = tuple(dict.fromkeys(real_folders(map(str, roots))))
    for root in found:
        if not Path(root).is_dir():
            raise UsageError(f"{root} is no folder", where="--script-root")
        if len(Path(root).parts) < 3:
            raise UsageError(
                f"{root} holds more than scripts",
                where="--script-root",
                hint="Name the folder that the scripts are in: all below it can be read inside.",
            )
    return found


def room(config: Config, *, forked: bool) -> int:
    """Bytes of memory that workers have together on this machine."""
    most = machine_capacity(reserve_bytes=config.reserve_bytes(), memory_ceiling=None, process_ceiling=None)
    zygote = parse_size(config.zygotes.memory) if forked else 0
    return int(most.memory_bytes * _SURPLUS) - zygote


def asked(file: Path | None) -> tuple[str, ...]:
    """What a file of requirements asks for. Raises `DependencyError`, `UsageError`."""
    return () if file is None else read_requirements(reads.read_text(file, UsageError), str(file))


def sources(roots: tuple[str, ...]) -> Iterator[str]:
    """The texts of the scripts, as many as are looked at; nothing of them runs."""
    for root in roots:
        for number, path in enumerate(sorted(Path(root).rglob("*.py"))):
            if number == _MOST_SCRIPTS:
                break
            try:
                if path.stat().st_size <= _MOST_BYTES:
                    yield reads.read_text(path, UsageError)
            except (OSError, BridgeholdError):
                continue


def keys_of(layout: Layout, config: Config, tenant: str) -> frozenset[str]:
    """Names of the secrets that the tenant has; none where this user may not see them."""
    try:
        return frozenset(
            one.name for one in SecretAdmin.for_layout(layout, config).list() if one.tenant == tenant
        )
    except (BridgeholdError, OSError):
        return frozenset()


def providers(config: Config, named: list[str], keys: frozenset[str]) -> tuple[texts.Provider, ...]:
    """Those that are named; otherwise those for which there is a key, or the usual ones."""
    usual = [
        name
        for name, section in config.providers.items()
        if (section.secret or name) in keys and section.shape in _DEFAULT
    ]
    wanted = dict.fromkeys(named or usual or _DEFAULT)
    return tuple(texts.provider_of(name, config.providers.get(name)) for name in wanted)


def write(layout: Layout, profile: Profile) -> int:
    """The profile's files, and its section of config.toml; how many packages are locked.

    Nothing that somebody else wrote is replaced: `UsageError` names it. Raises `ConfigError`,
    `DependencyError`.
    """
    config = load_config(layout.config_file)
    folder, rules = layout.bridges / profile.name, layout.policies / f"{profile.name}.toml"
    if any(entry.name == profile.name for entry in Catalogue.load([]).list()):
        raise UsageError(f"{profile.name} is a bridge that is shipped", hint="Choose another --name.")
    for path in (folder / "bridge.toml", rules):
        if not _is_ours(path):
            raise UsageError(
                f"{path} was written by hand",
                hint=f"Choose another --name, or use it: bridgehold shim DIR --profile {profile.name}",
            )
    text = reads.read_text(layout.config_file, ConfigError, or_none=True)
    changed = texts.with_scripts(text, profile, str(layout.config_file))
    try:
        writes.make_folder(layout.policies)
        writes.make_folder(folder)
        packages = _write_bridge(layout, profile, config)
        writes.replace(rules, texts.policy(profile))
        if changed != text:
            writes.replace(layout.config_file, changed, mode=_mode(layout.config_file))
    except OSError as error:
        raise ConfigError(
            f"can't be written: {error.strerror}",
            where=str(error.filename or layout.config),
            hint=mending(
                error,
                "Write it as the user whose host it is, or set BRIDGEHOLD_HOME to a folder of your own.",
            ),
        ) from error
    return packages


def _write_bridge(layout: Layout, profile: Profile, config: Config) -> int:
    """Its manifest and its lock, which is kept where the same packages are asked for as before."""
    folder = layout.bridges / profile.name
    asked_for, lock_file = folder / "requirements.in", folder / "requirements.lock"
    locked = reads.read_text(lock_file, DependencyError, or_none=True)
    if reads.read_text(asked_for, DependencyError, or_none=True) != profile.requirements:
        locked = ""
    if profile.requirements:
        writes.replace(asked_for, profile.requirements, beneath=folder)
        writes.replace(lock_file, locked, beneath=folder)
    writes.replace(folder / "bridge.toml", texts.manifest(profile), beneath=folder)
    if not profile.requirements:
        return 0
    if locked:
        return len(parse_lock(locked, str(lock_file)).pins)
    return lock(Catalogue.load([layout.bridges]).get(profile.name), "", config.host)


async def tell(layout: Layout) -> bool:
    """Have a host that runs take over what was written; whether one does. Raises what it refuses."""
    try:
        async with connect(layout.socket) as client:
            await client.request("reload", {})
    except HostUnavailableError:
        return False
    return True


def _is_ours(path: Path) -> bool:
    """Whether it is not there, or as we wrote it."""
    text = reads.read_text(path, ConfigError, or_none=True)
    return not text or text.startswith(MARK)


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
