"""Every fault of a layout's policies, ceilings, bridges and the names that join them, without a host.

Files are looked at with the rights of the host's own process: what root can read, and the host can't,
is a fault.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterable, Iterator
from typing import NoReturn

import msgspec

from bridgehold.bridges.catalogue import TENANTS_BRIDGES, Entry, passed_over, tenant_folders
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config, load_config
from bridgehold.error_texts import placed
from bridgehold.errors import BridgeholdError, PolicyError
from bridgehold.host.front.registry import Registry
from bridgehold.ids import LOCAL_TENANT, is_name, nearest
from bridgehold.keeper.approver import FILE, Approver
from bridgehold.policies import shipped
from bridgehold.policies.approved import by_key
from bridgehold.policies.explain import Known, unknown_names
from bridgehold.policies.explain import check as check_policies
from bridgehold.policies.files import Kind
from bridgehold.policies.model import Machine
from bridgehold.policies.units import parse_size
from bridgehold.sandbox.attest.view import open_view
from bridgehold.supervisor.plans import needed_paths, roles


def layout_registry(layout: Layout, machine: Machine | None = None) -> Registry:
    """A registry without a host, which writes nothing. `machine`: None gives everything."""
    config = load_config(layout.config_file)
    machine = machine or _machine(config, 0, os.cpu_count() or 1)
    registry = Registry(layout, config, machine, journal=None)
    with contextlib.suppress(BridgeholdError, OSError):  # a copy of it has no such key
        if (layout.secrets / FILE).exists():
            registry.verified = by_key(Approver(layout.secrets).public_key())
    return registry


def fleet(config: Config) -> tuple[Machine, ...]:
    """The machines of `[fleet]`, without those that another one surpasses; this one, where there is none."""
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    said = {(parse_size(one.memory), one.cpus) for one in config.fleet.values()}
    sizes = said or {(pages, os.cpu_count() or 1)}
    return tuple(
        _machine(config, max(1, memory - config.reserve_bytes()), cpus)
        for memory, cpus in sorted(sizes)
        if not any(memory <= more and cpus <= wider for more, wider in sizes - {(memory, cpus)})
    )


def _machine(config: Config, memory: int, cpus: int) -> Machine:
    devices = tuple(config.host.devices)
    return Machine(cgroup="v2", uids="range", memory_bytes=memory, cpus=cpus, devices=devices)


def check_layout(layout: Layout) -> tuple[list[str], list[str]]:
    """(the operator's files, every fault). Raises `ConfigError` for a config.toml that is none.

    Run by root it forks, so that the process has to be one of a single thread.
    """
    config = load_config(layout.config_file)
    uid = roles(config).host
    if os.geteuid() != 0 or uid == 0:
        return _checked(layout)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        _answer_as(uid, layout, config, write)
    os.close(write)
    with os.fdopen(read, "rb") as answers:
        data = answers.read()
    os.waitpid(child, 0)
    if not data:
        raise PolicyError("the host's process could not look at its files", where=str(layout.config))
    found, faults = msgspec.json.decode(data, type=tuple[list[str], list[str]])
    return found, faults


def _answer_as(uid: int, layout: Layout, config: Config, write: int) -> NoReturn:
    """In a child: see what the host's process sees, with its rights, and say what is wrong."""
    try:
        open_view(needed_paths(layout, config))
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
        try:
            answer = _checked(layout)
        except BridgeholdError as error:
            answer = ([], [placed(error)])
        os.write(write, msgspec.json.encode(answer))
    finally:
        os._exit(0)


def _checked(layout: Layout) -> tuple[list[str], list[str]]:
    config = load_config(layout.config_file)
    registry = layout_registry(layout)
    faults = [fault for kind in _KINDS for fault in registry.files.faults(kind)]
    faults += _own_policies(registry)
    faults += _approved(registry)
    try:
        bridges = registry.entries()
    except BridgeholdError as error:
        return [], [*dict.fromkeys(faults), placed(error)]
    faults += [f"{entry.folder}: {entry.fault}" for entry in bridges if entry.fault]
    seen = [entry for entry in registry.visible(lambda _: True) if not entry.fault]
    faults += [*_grants(registry, seen, set(faults))]
    faults += _names(registry, config, [entry.name for entry in bridges])
    faults += _of_tenants(registry, bridges)
    faults += _unknown(registry, known_names(registry, config), [entry.name for entry in bridges])
    faults += _beside_bridges(layout)
    found = [str(layout.policies / f"{name}.toml") for name in _listed(registry, "policy")]
    found += [str(layout.tenants / f"{name}.toml") for name in _listed(registry, "tenant")]
    return found, list(dict.fromkeys(faults))


_KINDS: tuple[Kind, ...] = ("policy", "tenant")


def _listed(registry: Registry, kind: Kind) -> tuple[str, ...]:
    """Names of the files; none where the folder can't be read, which is a fault of its own."""
    try:
        return registry.files.names(kind)
    except PolicyError:
        return ()


def _own_policies(registry: Registry) -> Iterator[str]:
    texts = {}
    for name in _listed(registry, "policy"):
        with contextlib.suppress(PolicyError):  # said already
            found = registry.files.read("policy", name)
            if found is not None:
                texts[name] = (found.text, found.file)
    for fault in check_policies(texts):
        yield f"{fault.where}: {fault.message}"


def _approved(registry: Registry) -> Iterator[str]:
    """Approved rules that are not what was signed, or are for nobody."""
    for name in _listed(registry, "approved"):
        bridge, _, tenant = name.partition("@")
        try:
            registry.manifest(bridge, tenant)
            registry.approved(bridge, tenant)
        except BridgeholdError as error:
            yield f"policies/{name}.approved.toml: {error.message}"


def _grants(registry: Registry, bridges: Iterable[Entry], said: Container[str]) -> Iterator[str]:
    """Composed, and resolved for every bridge and who sees it: extends, narrowing, weakenings, needs.

    What was `said` of a file by itself isn't said again for each bridge that it grants.
    """
    tenants = dict.fromkeys([LOCAL_TENANT, *_listed(registry, "tenant")])
    for bridge in bridges:
        for tenant in [bridge.tenant] if bridge.tenant else tenants:
            try:
                registry.resolve_grant(tenant, registry.manifest(bridge.name, tenant))
            except BridgeholdError as error:
                left = [line for line in placed(error).splitlines() if line not in said]
                if left:
                    yield f"{bridge.name} for {tenant}: " + "\n".join(left)


def known_names(registry: Registry, config: Config) -> Known:
    """What the names of policies can mean here: every bridge's operations and resources, and providers."""
    bridges = registry.entries()
    needs = [entry.manifest.needs for entry in bridges if entry.manifest is not None]
    return Known(
        operations=tuple(dict.fromkeys(name for one in needs for name in one.operations)),
        resources=tuple(dict.fromkeys(name for one in needs for name in one.resources)),
        providers=tuple(config.providers),
        unread=tuple(entry.name for entry in bridges if entry.manifest is None),
    )


def _unknown(registry: Registry, known: Known, bridges: list[str]) -> Iterator[str]:
    """Names in the operator's own files that nothing here bears."""
    for kind in _KINDS:
        for name in _listed(registry, kind):
            with contextlib.suppress(PolicyError):  # said already
                found = registry.files.read(kind, name)
                if found is not None:
                    tables = bridges if kind == "tenant" else None
                    yield from unknown_names(found.text, found.file, known, tables=tables)


def _beside_bridges(layout: Layout) -> Iterator[str]:
    """What lies where bridges do and is never read. Where it can't be listed its bridges are a fault."""
    for place, why in passed_over(layout.bridges, layout.tenants):
        if place.parent != layout.tenants:  # said already
            yield f"{place}: nothing reads this: {why}"
    with contextlib.suppress(OSError):
        for place in sorted(layout.tokens.glob("*.toml")):
            if not is_name(place.stem):
                yield f"{place}: nothing reads this: a token's file is NAME.toml"
    with contextlib.suppress(OSError):
        for home in tenant_folders(layout.tenants):
            for place in sorted(home.iterdir()):
                if place.name != TENANTS_BRIDGES and not place.name.startswith("."):
                    yield f"{place}: nothing reads this: a tenant's folder holds {TENANTS_BRIDGES}/"


def _names(registry: Registry, config: Config, bridges: list[str]) -> Iterator[str]:
    """Names that nothing bears, and that come so near to one that they were meant for it."""
    for name in config.bridges:
        if name not in bridges:
            yield f"config.toml: bridges.{name}: there is no bridge of this name{nearest(name, bridges)}"
    used = {*bridges, *shipped.names(), *(section.policy for section in config.bridges.values())}
    for name in _listed(registry, "policy"):
        if "@" not in name and name not in used and (near := nearest(name, bridges)):
            extended = any(_extends(registry, other, name) for other in _listed(registry, "policy"))
            if not extended:
                yield f"policies/{name}.toml: no bridge runs under it, and none is named so{near}"
    named = {LOCAL_TENANT, *(one for section in config.principals.values() for one in section.tenants)}
    without = named - set(_listed(registry, "tenant"))
    for name in _listed(registry, "tenant"):
        if name not in named and (near := nearest(name, without)):
            yield f"tenants/{name}.toml: nobody may act for this tenant{near}"


def _of_tenants(registry: Registry, bridges: list[Entry]) -> Iterator[str]:
    """Policies of one tenant's bridge that no bridge runs under: another would hold there, or none."""
    for name in _listed(registry, "policy"):
        bridge, _, tenant = name.partition("@")
        if not tenant:
            continue
        seen = sorted({entry.name for entry in bridges if entry.tenant in ("", tenant)})
        if bridge not in seen:
            yield f"policies/{name}.toml: {tenant} has no bridge {bridge!r}{nearest(bridge, seen)}"


def _extends(registry: Registry, name: str, other: str) -> bool:
    found = registry.files.read("policy", name)
    return found is not None and f'"{other}"' in found.text.replace("'", '"')
