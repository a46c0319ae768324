"""Names that somebody typed, looked up before anything is done with them.

A misspelt one would open, close and bound nothing, and nobody would notice.
"""

from __future__ import annotations

import contextlib
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from bridgehold.config.layout import Layout, default_layout
from bridgehold.errors import BridgeholdError, NotFoundError
from bridgehold.ids import LOCAL_TENANT, is_name, nearest, parse_name

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from bridgehold.bridges.manifest import Manifest
    from bridgehold.client.client import Client
    from bridgehold.host.front.registry import Registry


_SLIP = 0.75
"""As near as ``acmee`` and ``acem`` are to ``acme``."""
Typed = TypeVar("Typed", str, "list[str] | None")
_WITHOUT_DIGITS = str.maketrans("", "", "0123456789")


def typed_tenant(name: str) -> str:
    """`name`, as somebody typed it; empty is what nobody typed.

    Raises `UsageError` for what is no name, `NotFoundError` for one that looks like a slip for another's, and
    of which nobody has said anything: no file, key or token, nor config.toml. A tenant needs no file: any
    other is made by its first session. Of what this user can't read nothing is known; whoever is no operator
    acts for own tenants alone.
    """
    if name in ("", LOCAL_TENANT):
        return name
    from bridgehold.config.load import load_config

    layout = default_layout()
    parse_name(name, "tenant")
    if (layout.tenants / f"{name}.toml").exists():
        return name
    known: set[str] = {LOCAL_TENANT}
    with contextlib.suppress(OSError, BridgeholdError):
        known |= {path.stem for path in layout.tenants.glob("*.toml") if is_name(path.stem)}
        known |= {path.name for path in layout.tenants.iterdir() if path.is_dir()}
    with contextlib.suppress(OSError, BridgeholdError):
        for section in load_config(layout.config_file).principals.values():
            known.update(section.tenants)
    if name in known or not (near := slip_for(name, known)):
        return name
    if name not in _of_tokens_and_keys(layout):
        raise NotFoundError(
            f"there is no tenant {name!r}{near}", hint=f"`bridgehold tenant create {name}` makes it."
        )
    return name


def slip_for(name: str, known: set[str]) -> str:
    """As `nearest`, of what `name` looks like a slip for; nothing where `known` has it.

    Names that differ in their numbers are those of a row, and no slips.
    """
    if name in known:
        return ""
    plain = name.translate(_WITHOUT_DIGITS)
    return nearest(name, [one for one in known if one.translate(_WITHOUT_DIGITS) != plain], _SLIP)


def _of_tokens_and_keys(layout: Layout) -> set[str]:
    from bridgehold.host.front.slips import tenants_of_tokens
    from bridgehold.keeper.index import read_index

    known = tenants_of_tokens(layout)
    with contextlib.suppress(OSError, BridgeholdError):
        known.update(one.tenant for one in read_index(layout.secrets).secrets)
    return known


def typed_bridge(typed: Typed) -> Typed:
    """`typed`, as somebody typed it: a bridge, some, or ``BRIDGE:OPERATION``.

    Raises `NotFoundError` for what is no name and is something on this disk: what it is, and what to type.
    """
    for word in [typed] if isinstance(typed, str) else typed or []:
        name = word if Path(word).exists() else word.partition(":")[0]
        if name and not is_name(name) and (found := _on_disk(name)):
            raise found
    return typed


def offline_bridge(name: str, tenant: str, registry: Registry | None = None) -> Manifest:
    """As `Registry.manifest`, of this layout if left out; a folder that is no bridge is told as one."""
    from bridgehold.faces.cli.policy_check import layout_registry

    try:
        return (registry or layout_registry(default_layout())).manifest(name, tenant)
    except NotFoundError as error:
        raise _on_disk(name) or error from None


def _on_disk(name: str) -> NotFoundError | None:
    """Why a folder or a file, which somebody typed in a bridge's place, is none; None: nothing is there."""
    bridges = default_layout().bridges
    with contextlib.suppress(OSError, ValueError):
        path = Path(name).resolve(strict=True)
        called = path.name if is_name(path.name) else "NAME"
        if not path.is_dir():
            why = "a file is no bridge"
            file = shlex.quote(name)
            hint = f"`bridgehold python {file}` runs a script; `bridge new NAME --from {file}` makes one."
        elif not (path / "bridge.toml").exists():
            why = "this folder has no bridge.toml, and is no bridge"
            hint = f"`bridgehold bridge new {called}` writes a bridge that runs, in {bridges / called}."
        elif path.parent == bridges.resolve():
            why, hint = "a bridge is called by its name, not by its folder", f"Type {called} instead."
        else:
            why = "this host has no bridge in this folder"
            hint = f"Copy it to {bridges / called}, then type {called}: the bridges that it has are there."
        return NotFoundError(why, where=str(path), hint=hint)
    return None


@contextlib.asynccontextmanager
async def session_of(client: Client, name: str) -> AsyncIterator[None]:
    """Where the block finds no session `name`, its error says which one that the caller may see is near."""
    try:
        yield
    except NotFoundError as error:
        near = ""
        with contextlib.suppress(BridgeholdError):
            near = nearest(name, {known for one in await client.sessions() for known in (one.name, one.id)})
        raise NotFoundError(f"{error.message}{near}", hint=error.hint, where=error.where) from None


async def check_kind(client: Client, kind: str) -> None:
    """Raises `NotFoundError` for a kind of resources that no bridge here declares; empty is any."""
    known: set[str] = set()
    for one in await client.request("bridges", {}) if kind else ():
        with contextlib.suppress(BridgeholdError):  # one that is broken, or not the caller's
            known |= {str(each["name"]) for each in (await client.describe(str(one["name"])))["resources"]}
    if kind and kind not in known:
        raise NotFoundError(
            f"no bridge has resources of a kind {kind[:80]!r}{nearest(kind, known)}",
            hint="`bridgehold bridge show NAME` lists a bridge's.",
        )


async def check_bridge(client: Client, bridge: str) -> None:
    """Raises `NotFoundError` for one that the host doesn't have, nor a session of; empty is any."""
    if bridge:
        known = {str(one["name"]) for one in await client.request("bridges", {})}
        known |= {session.bridge for session in await client.sessions()}
        if bridge not in known:
            raise NotFoundError(
                f"there is no bridge {bridge[:80]!r}{nearest(bridge, known)}",
                hint="`bridgehold bridge list` shows them.",
            )


async def check_tenant(client: Client, tenant: str) -> None:
    """Raises `NotFoundError` for what looks like a slip for another's and nothing bears; empty is any.

    Any other may be a tenant without a file, of which nobody has said anything yet.
    """
    if tenant:
        known = {str(one["name"]) for one in await client.request("tenant.list", {})}
        if parse_name(tenant, "tenant") not in known and (near := slip_for(tenant, known)):
            raise NotFoundError(
                f"there is no tenant {tenant!r}{near}",
                hint="`bridgehold tenant list` shows all; `bridgehold tenant create` makes one.",
            )


async def check_operation(client: Client, pattern: str) -> None:
    """Raises `NotFoundError` for a pattern that fits no ``bridge:operation`` which a bridge declares."""
    from bridgehold.policies import globs

    bridges = await client.request("bridges", {})
    known = [str(name) for one in bridges for name in one["operations"]]
    undeclared = [f"{one['name']}:*" for one in bridges if not one["operations"]]
    if not any(globs.meet(pattern, one) for one in (*known, *undeclared, "common:*")):
        raise NotFoundError(
            f"no bridge has an operation {pattern[:80]!r}{nearest(pattern, known)}",
            hint="`bridgehold bridge show NAME` lists a bridge's.",
        )
