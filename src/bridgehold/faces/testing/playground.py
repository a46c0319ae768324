"""A private host to play with: one bridge of the user's, its own policy, and the simulated provider.

Everything but the environments lives in a folder of its own that is gone at the end: configuration, keys,
audit, socket. The user's keys and running host are never touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec

from bridgehold import reads, writes
from bridgehold.bridges.catalogue import Catalogue
from bridgehold.bridges.kit.provider import Provider
from bridgehold.bridges.manifest import Manifest
from bridgehold.client.client import Client
from bridgehold.client.private import PrivateHost
from bridgehold.config.layout import Layout, default_layout
from bridgehold.config.load import Config, load_config, overridden, overrides, own_variables
from bridgehold.config.sections import ProviderSection
from bridgehold.errors import ConfigError, UsageError
from bridgehold.host.front.registry import Registry
from bridgehold.ids import LOCAL_TENANT
from bridgehold.policies.files import of_tenant
from bridgehold.policies.model import Machine

_KEPT = ("host", "bridges", "tools", "zygotes", "features", "default_bridge")
"""What of the user's config.toml counts here too: neither principals nor keys nor real providers."""
_BASES = {"gemini": "/v1beta"}
_OWN = "played-own-"
"""Before the bridge's name: the policy of one tenant's bridge, so that it can be extended."""
_POLICY = """\
# What {policy} grants, where the provider is the simulator on the loopback.
extends = "{policy}"
weakenings = {weakenings}

[sandbox]
enforcement = "weakened"
"""


class Playground(msgspec.Struct, frozen=True, kw_only=True):
    """Where it lives, and who plays the provider. `manifest` is the user's own."""

    layout: Layout
    manifest: Manifest
    provider: Provider
    folder: Path
    """Where this layout has the bridge, if it is no shipped one."""

    def refresh(self) -> None:
        """Take the bridge's files as they are now."""
        target = self.folder
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(self.manifest.folder, target, symlinks=True)


@contextlib.asynccontextmanager
async def playground(
    bridge: str, layout: Layout | None = None, *, tenants: tuple[str, ...] = (LOCAL_TENANT,), keep: str = ""
) -> AsyncIterator[Playground]:
    """A layout for `bridge`, and a provider whose key its `tenants` have. `keep`: a folder to leave it in."""
    user = layout or default_layout()
    async with Provider.open() as provider:
        home = await asyncio.to_thread(_home, keep)
        try:
            ground = await asyncio.to_thread(_prepare, home, user, bridge, provider, tenants)
            yield ground
        finally:
            if not keep:
                await asyncio.to_thread(shutil.rmtree, home, ignore_errors=True)


@contextlib.asynccontextmanager
async def hosted(ground: Playground) -> AsyncIterator[tuple[Client, PrivateHost]]:
    """A private host on a playground, and its client."""
    said = own_variables(os.environ)  # overrides of the user's own are in the configuration already
    environ = {name: value for name, value in os.environ.items() if name not in said}
    environ["CREDENTIALS_DIRECTORY"] = str(_credentials(ground.layout))
    private = await PrivateHost.begin(ground.layout, environ)
    try:
        async with await Client.connect(ground.layout.socket) as client:
            yield client, private
    finally:
        await asyncio.to_thread(private.stop)


def _home(keep: str) -> Path:
    """A new folder."""
    if not keep:
        return Path(tempfile.mkdtemp(prefix="bridgehold-play-"))
    home = Path(keep).absolute()
    try:
        writes.make_folder(home, new=True)
    except OSError as error:
        raise UsageError(f"{keep} can't be made: {error.strerror}", hint="Name a new folder.") from error
    return home


def _credentials(layout: Layout) -> Path:
    return layout.config.parent / "credentials"


def _prepare(
    home: Path, user: Layout, bridge: str, provider: Provider, tenants: tuple[str, ...]
) -> Playground:
    writes.give(home, os.getuid(), os.getgid(), 0o755)
    layout = Layout(config=home / "config", state=home / "state", run=home / "run")
    for folder in (layout.config, layout.bridges, layout.state):
        writes.make_folder(folder)
    config = load_config(user.config_file)
    folders = [user.bridges] if user.bridges.is_dir() else []
    manifest = Catalogue.load(folders, user.tenants).get(bridge, tenants[0])
    for name in ("policies", "tenants", "tools"):
        if (user.config / name).is_dir():
            shutil.copytree(user.config / name, layout.config / name)
    writes.make_folder(layout.policies)
    writes.make_folder(user.environments)
    layout.environments.symlink_to(user.environments)
    writes.replace(layout.config_file, _config(user, config, manifest, provider))
    writes.replace(layout.policies / f"played-{bridge}.toml", _policy(user, config, manifest, tenants[0]))
    for tenant in tenants:  # what is played extends it, by a name that can be extended
        own = layout.policies / f"{of_tenant(bridge, tenant)}.toml"
        if own.exists():
            own.rename(layout.policies / f"{_OWN}{bridge}.toml")
    inside = manifest.folder.is_relative_to(user.config)
    folder = layout.config / manifest.folder.relative_to(user.config) if inside else manifest.folder
    ground = Playground(layout=layout, manifest=manifest, provider=provider, folder=folder)
    if inside:
        ground.refresh()
    _lend_keys(_credentials(layout), manifest, provider, tenants)
    return ground


def _config(user: Layout, config: Config, manifest: Manifest, provider: Provider) -> str:
    try:
        given = reads.load_toml(user.config_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        given = {}
    except (OSError, ValueError) as error:
        raise ConfigError(f"can't read the configuration: {error}", where=str(user.config_file)) from error
    given = overridden(given, overrides(os.environ))
    kept: dict[str, Any] = {name: given[name] for name in _KEPT if name in given}
    names = {need.provider: need.name for need in manifest.needs.secrets}
    kept["secrets"] = {"store": "systemd"}
    kept["providers"] = {
        name: _played(one, provider, names.get(name, one.secret)) for name, one in config.providers.items()
    }
    own = dict(kept.get("bridges", {}).get(manifest.name, {}))
    own["policy"] = f"played-{manifest.name}"
    kept["bridges"] = {**kept.get("bridges", {}), manifest.name: own}
    return "".join(f"{name} = {toml(value)}\n" for name, value in kept.items())


def _played(section: ProviderSection, provider: Provider, secret: str) -> dict[str, Any]:
    base = provider.base_url.removesuffix("/v1") + _BASES.get(section.shape, "/v1")
    return {**msgspec.structs.asdict(section), "base_url": base, "private": True, "secret": secret}


def _policy(user: Layout, config: Config, manifest: Manifest, tenant: str) -> str:
    registry = Registry(
        user, config, Machine(cgroup="v2", uids="range", memory_bytes=0, cpus=1), journal=None
    )
    policy = registry.policy_name(manifest.name, tenant)
    weakenings = {*registry.policy(policy).weakenings, *(["private_network"] if manifest.providers else [])}
    if policy == of_tenant(manifest.name, tenant):
        policy = f"{_OWN}{manifest.name}"
    if not weakenings:
        return f'extends = "{policy}"\n'
    return _POLICY.format(policy=policy, weakenings=toml(sorted(weakenings)))


def _lend_keys(folder: Path, manifest: Manifest, provider: Provider, tenants: tuple[str, ...]) -> None:
    """The simulator's key, worth nothing elsewhere, as credentials of the service: no store to unlock."""
    writes.make_folder(folder, mode=0o700, new=True)
    for need in manifest.needs.secrets:
        for tenant in tenants:
            writes.replace(folder / f"{tenant}.{need.name}", provider.key, mode=0o600)


def toml(value: object) -> str:
    """A value of TOML, in one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=True)
