"""Bridges, policies and tenants of this host: from names to manifests and grants.

Policies and ceilings are read for each decision: a narrowed one takes effect at the next command, and
one that can't be read refuses it. Bridges are read again when their files change. What a grant rests
on is written to the audit whenever it differs.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable
from functools import reduce
from pathlib import Path

import msgspec

from bridgehold import clock
from bridgehold.bridges.catalogue import Catalogue, Entry, passed_over
from bridgehold.bridges.manifest import Manifest
from bridgehold.config.layout import Layout
from bridgehold.config.load import Config
from bridgehold.errors import BridgeholdError, ManifestError, NotFoundError, PolicyError
from bridgehold.host.front.ceilings import SignedCeilings
from bridgehold.host.front.in_force import InForce, Records
from bridgehold.host.front.seen_bridges import SeenBridges
from bridgehold.host.front.slips import demand_no_slip
from bridgehold.ids import is_name
from bridgehold.policies.approved import Approved, Verified, in_force, read_rules, until_each_ends, widened
from bridgehold.policies.changes import compare
from bridgehold.policies.compose import Read, compose, compose_tenant
from bridgehold.policies.files import Kind, PolicyFiles, Readings, of_tenant
from bridgehold.policies.grant import resolve
from bridgehold.policies.model import Ceilings, Decision, Grant, Machine, Policy
from bridgehold.policies.narrow import narrow
from bridgehold.policies.reviewed import OF_TENANT, ReviewedOnly, demand_no_more, is_policy
from bridgehold.policies.tenants import parse as parse_tenant
from bridgehold.sandbox.values import TenantShare

_MOST_KEPT = 1_024
_MOST_TRIES = 8
"""Grants resolved for one question; each of them was out of date by the time that the audit had it."""


class Granted(msgspec.Struct, frozen=True):
    """A bridge as a tenant has it: manifest and grant, and all that the grant was made of."""

    manifest: Manifest
    grant: Grant
    catalogue: Catalogue
    bridges: tuple[str, ...]
    generation: int
    """Of configurations: which one it was resolved under."""
    readings: Readings
    until: int
    """When it is resolved anew in any case, in seconds of the epoch; 0: never."""
    decisions: dict[tuple[str, tuple[str, ...]], Decision]
    """What was decided under this grant, by operation and kinds of resources: of declared ones alone."""


_BESIDE = 8
"""Workers of a tenant's beside its sessions and pools: what ends, or tries a bridge."""


class Registry:
    """What this host knows by name. Reads the layout's folders; runs nothing.

    Without a `journal` it only resolves, for a command line that looks at policies.
    """

    def __init__(
        self,
        layout: Layout,
        config: Config,
        machine: Machine,
        journal: Records | None,
        files: PolicyFiles | None = None,
        own: Callable[[bool], tuple[Entry, ...]] | None = None,
    ) -> None:
        """`files`: others than the layout's own. `own`: the bridges of one tenant, where no folder of a
        tenant's can be seen; whether they are to be looked at anew comes in, and the same value stands for
        the same bridges.
        """
        self._layout = layout
        self._of_tenants = own is not None
        self._bridges = SeenBridges(layout, own)
        self._config, self._configured = config, _tenants(config)
        self.machine = machine
        self._journal = journal
        self.files = files or PolicyFiles(layout.policies, layout.tenants)
        self.verified: Verified | None = None
        """Tells sound signatures of approved rules; None: nobody here knows the key, nor runs anything."""
        self.signed = SignedCeilings(lambda: self._config.review.required, lambda: self.verified)
        self._in_force = InForce(journal, _MOST_KEPT) if journal is not None else None
        self._grants: dict[tuple[str, str], Granted] = {}
        self._generation = 0
        """Of configurations: a grant of an earlier one holds no more, whenever it comes to be known."""

    def replace(self, config: Config, gone: Iterable[Path] = ()) -> None:
        """From now on this configuration, and without what of `gone` is; grants are resolved anew."""
        gone = tuple(gone)
        bridges = {path.name for path in gone if path.parent == self._layout.bridges and not path.is_dir()}
        self._config, self._configured = config, _tenants(config)
        self._generation += 1
        self._grants.clear()
        self.files.let_go(gone)
        self._bridges.let_go(bridges)

    def look_again(self) -> None:
        """A bridge was changed just now: whoever asks next sees it."""
        self._bridges.look_again()

    def share_of(self, tenant: str) -> TenantShare:
        """What the tenant's sandboxes have together, and beside how many tenants.

        Its ceiling of memory is one of promises (`shares.ceilings`). A file that can not be read changes
        nothing here: it refuses the grant.
        """
        weight: int | None = None
        most = host = self._config.host.max_sessions
        with contextlib.suppress(PolicyError):
            own = self.files.read("tenant", tenant)
            if own is not None:
                limits = parse_tenant(tenant, own.text, own.file).limits
                weight, most = limits.cpu_share, min(host, limits.sessions or host)
        pools = sum(one.pool_size + one.overflow for one in self._config.bridges.values() if one.pool_size)
        return TenantShare(
            tenants=self.tenants_with(tenant), cpu_weight=weight or 100, sandboxes=most + pools + _BESIDE
        )

    def tenants_with(self, tenant: str) -> int:
        """How many tenants files and the configuration name, this one included."""
        return self.files.count_with("tenant", {*self._configured, tenant})

    def gone(self) -> tuple[Path, ...]:
        """What of policies, ceilings and bridges was here and isn't any more: refused until it is let go."""
        return (*self.files.gone(), *self._bridges.gone())

    def rules(self) -> dict[str, str]:
        """What every policy, ceiling and manifest of the operator's says now: a digest, or what is wrong."""
        found: dict[str, str] = {}
        folders: tuple[tuple[Kind, Path], ...] = (
            ("policy", self._layout.policies),
            ("tenant", self._layout.tenants),
        )
        for kind, folder in folders:
            with contextlib.suppress(PolicyError):
                for name in self.files.names(kind):
                    try:
                        text = self.files.read(kind, name)
                    except PolicyError as error:
                        found[f"{folder.name}/{name}.toml"] = error.message
                    else:
                        found[f"{folder.name}/{name}.toml"] = text.digest if text is not None else ""
        with contextlib.suppress(ManifestError):
            for entry in self.entries():
                if not entry.shipped:
                    file = entry.folder.relative_to(self._layout.config) / "bridge.toml"
                    found[str(file)] = entry.manifest.digest if entry.manifest is not None else entry.fault
        if not self._of_tenants:
            for place, why in passed_over(self._layout.bridges, self._layout.tenants):
                found[str(place.relative_to(self._layout.config))] = why
        return found

    def refused(self, file: str) -> str:
        """Why a policy or a tenant's file, by its name in `rules`, can't be used; empty: it can."""
        folder, _, name = file.removesuffix(".toml").partition("/")
        try:
            if folder == self._layout.policies.name:
                self.policy(name)
            elif folder == self._layout.tenants.name and is_name(name):
                self._bounds(name, "", Readings(self.files))
        except BridgeholdError as error:
            return error.message
        return ""

    @property
    def config(self) -> Config:
        """The configuration that holds now."""
        return self._config

    @property
    def default_bridge(self) -> str:
        """The bridge that a request without one means; empty: there is none."""
        return self._config.default_bridge

    def visible(self, may_act_for: Callable[[str], bool]) -> list[Entry]:
        """Bridges that are switched on: everybody's, and those of tenants that the caller may act for."""
        return [
            entry
            for entry in self.entries()
            if self._enabled(entry.name) and (not entry.tenant or may_act_for(entry.tenant))
        ]

    def entries(self) -> list[Entry]:
        """Every bridge, switched off, broken and tenants' own ones too. Raises `ManifestError`."""
        self._bridges.refresh()
        return self._bridges.catalogue.list()

    def manifest(self, bridge: str, tenant: str) -> Manifest:
        """As the tenant sees it. Raises `NotFoundError`, or `ManifestError` where its file is broken."""
        self._bridges.refresh()
        if not self._enabled(bridge):
            raise NotFoundError(f"the bridge {bridge!r} is switched off here")
        try:
            return self._bridges.catalogue.get(bridge, tenant)
        except (NotFoundError, ManifestError):
            self._bridges.due = 0.0  # it may have come, or been mended, a moment ago
            self._bridges.refresh()
            return self._bridges.catalogue.get(bridge, tenant)

    def own(self, tenant: str, *, anew: bool = False) -> list[Entry]:
        """The bridges that are this tenant's alone; `anew`: looked at now. Raises `ManifestError`."""
        if anew:
            self._bridges.due = 0.0
        return [entry for entry in self.entries() if entry.tenant == tenant]

    def manifests(self) -> list[Manifest]:
        """Of every bridge whose file is sound, switched on or not."""
        self._bridges.refresh()
        return self._bridges.sound()

    def describe(self, entry: Entry) -> dict[str, object]:
        """One entry of `bridgehold bridge list`."""
        return self._bridges.describe(entry)

    async def grant(self, tenant: str, bridge: str) -> Grant:
        """As `granted`, without the manifest."""
        return (await self.granted(tenant, bridge)).grant

    async def granted(self, tenant: str, bridge: str, begun: Manifest | None = None) -> Granted:
        """The bridge with the grant as the files say it now. Raises as `manifest` does, `PolicyError`,
        also where the files can't be read, and `SuspendedError` for a tenant that is.

        `begun`: the release of it that a session began with, where that is not the one in use.

        Resolved anew only where something that it rests on differs, also meanwhile: a grant waits for the
        audit, and is judged after that as any that is known.
        """
        if time.monotonic() >= self._bridges.due:
            self._bridges.refresh()
        place = (tenant, bridge if begun is None else begun.release)
        for _ in range(_MOST_TRIES):
            known = self._grants.pop(place, None)
            if known is not None and (known.generation != self._generation or 0 < known.until <= clock.now()):
                known = None
            if known is not None and known.catalogue is not self._bridges.catalogue:
                known = self._carried(known, tenant, begun)
            if known is not None and known.readings.still_true():
                self._grants[place] = known
                while len(self._grants) > _MOST_KEPT:  # who may act for any tenant may name many
                    del self._grants[next(iter(self._grants))]
                return known
            self._grants[place] = await self._granted_anew(tenant, bridge, begun)
        raise PolicyError(
            f"what {tenant} has of {bridge} changes faster than it can be written down",
            where=str(self._layout.config),
            hint="Ask again once configuration, policies and ceilings stay as they are.",
        )

    def _carried(self, known: Granted, tenant: str, begun: Manifest | None) -> Granted | None:
        """The same under the catalogue as it is now; None where that differs in what the grant rests on."""
        manifest = begun or self.manifest(known.manifest.name, tenant)
        bridges = self._bridge_names(tenant)
        if (known.manifest.digest, known.manifest.folder, known.bridges) != (
            manifest.digest,
            manifest.folder,
            bridges,
        ):
            return None
        return msgspec.structs.replace(
            known, manifest=manifest, catalogue=self._bridges.catalogue, decisions={}
        )

    async def _granted_anew(self, tenant: str, bridge: str, begun: Manifest | None) -> Granted:
        manifest = begun or self.manifest(bridge, tenant)
        catalogue, generation = self._bridges.catalogue, self._generation
        bridges = self._bridge_names(tenant)
        readings = Readings(self.files)
        _demand(tenant, readings)
        self.demand_no_slip(tenant)
        grant = self._resolve(tenant, manifest, readings)
        if self._in_force is not None:
            place = (tenant, bridge if begun is None else begun.release)
            await self._in_force.write_down(place, grant, readings)
        end = min(filter(None, (grant.until, readings.until)), default=0)
        return Granted(manifest, grant, catalogue, bridges, generation, readings, end, {})

    def demand_no_slip(self, tenant: str) -> None:
        """Raise `NotFoundError` for a slip of a tenant's name. A cell's tenant was looked at by the front."""
        if not self._of_tenants:
            demand_no_slip(self._layout, tenant, self._configured)

    def resolve_grant(self, tenant: str, manifest: Manifest, more: Policy | None = None) -> Grant:
        """The grant, resolved from the files as they are now; writes nothing. `more`: if that were added."""
        return self._resolve(tenant, manifest, Readings(self.files), more)

    def _resolve(
        self, tenant: str, manifest: Manifest, readings: Readings, more: Policy | None = None
    ) -> Grant:
        policy = compose(self._policy_name(manifest.name, tenant, readings), self._reader(readings))
        bounds, own = self._bounds(tenant, manifest.name, readings), readings.read("tenant", tenant)
        ceilings = parse_tenant(tenant, own.text, own.file).limits if own is not None else Ceilings()
        rules = self.approved(manifest.name, tenant, readings)

        def within(policy: Policy) -> Grant:
            return resolve(
                manifest.needs,
                policy,
                bounds[-1] if bounds else None,
                self.machine,
                tenant=tenant,
                bridge=manifest.name,
                version=manifest.version,
                private_providers=[name for name, entry in self._config.providers.items() if entry.private],
            )

        def resolved(adds: Iterable[Policy]) -> Grant:
            wide = widened(policy, (*adds, more) if more else adds)
            grant = within(reduce(narrow, bounds[:-1], wide))
            if bounds[:-1] and own is not None:  # another ceiling was signed: by both less can be had alone
                demand_no_more(compare(grant, within(wide)), f"{OF_TENANT}{tenant}", own.file)
            return msgspec.structs.replace(grant, ceilings=ceilings)

        return until_each_ends(rules, clock.now(), resolved)

    def approved(self, bridge: str, tenant: str, readings: Readings | None = None) -> tuple[Approved, ...]:
        """Every approved rule of the tenant's bridge, those that have ended too. Raises `PolicyError`."""
        found = (readings or Readings(self.files)).read("approved", of_tenant(bridge, tenant))
        return read_rules(bridge, tenant, found.text, found.file, self.verified) if found else ()

    def policy(self, name: str) -> Policy:
        """The policy file `name`, with what it extends. Raises `PolicyError`."""
        return compose(name, self._reader(Readings(self.files)))

    def _reader(self, readings: Readings) -> Read:
        """Policies by name; only what somebody has signed, where the configuration demands it."""
        required = self._config.review.required
        return ReviewedOnly(readings, self.verified, clock.now()) if required else readings.policy

    def policy_for(self, name: str, tenant: str) -> tuple[Policy, Readings]:
        """The policy `name` within the tenant's ceiling, and what that rests on; a bridge's own table of the
        ceiling and its approved rules too, where it runs under it and its name is the policy's.
        """
        readings = Readings(self.files)
        policy = compose(name, self._reader(readings))
        bridge = name.partition("@")[0]
        runs = bridge in self._bridge_names(tenant) and self._policy_name(bridge, tenant, readings) == name
        bounds = self._bounds(tenant, bridge if runs else "", readings)
        if runs:
            rules = in_force(self.approved(bridge, tenant, readings), clock.now())
            policy = widened(policy, (one.adds for one in rules))
        return reduce(narrow, bounds, policy), readings

    def policy_name(self, bridge: str, tenant: str) -> str:
        """Which policy the tenant's bridge runs under. Raises `PolicyError` where that can't be told."""
        return self._policy_name(bridge, tenant, Readings(self.files))

    def _policy_name(self, bridge: str, tenant: str, readings: Readings) -> str:
        own = of_tenant(bridge, tenant)
        required = self._config.review.required
        if is_policy(own, readings, or_reviewed=required):
            return own
        section = self._config.bridges.get(bridge)
        if section is not None and section.policy:
            return section.policy
        return bridge if is_policy(bridge, readings, or_reviewed=required) else "baseline"

    def _bounds(self, tenant: str, bridge: str, readings: Readings) -> list[Policy]:
        """The tenant's own upper bounds for `bridge`, if it has a file; before them others signed."""
        if not is_name(tenant):
            raise NotFoundError("no such tenant")
        found, signed = readings.read("tenant", tenant), self.signed.demand(tenant, readings)
        if found is not None:
            parse_tenant(tenant, found.text, found.file)
        known, read = self._bridge_names(tenant), self._reader(readings)
        texts = [one for one in (signed, found) if one is not None]
        return [compose_tenant(tenant, one.text, one.file, bridge, read, known=known) for one in texts]

    def _bridge_names(self, tenant: str) -> tuple[str, ...]:
        """Every bridge that the tenant sees, switched off and broken ones too."""
        return tuple(entry.name for entry in self._bridges.catalogue.list() if entry.tenant in ("", tenant))

    def _enabled(self, bridge: str) -> bool:
        section = self._config.bridges.get(bridge)
        return section is None or section.enabled


def _demand(tenant: str, readings: Readings) -> None:
    """Raise `SuspendedError` unless the tenant is active."""
    found = readings.read("tenant", tenant)
    if found is not None:
        parse_tenant(tenant, found.text, found.file).demand()


def _tenants(config: Config) -> frozenset[str]:
    """Those for whom somebody of the configuration may act."""
    return frozenset(name for section in config.principals.values() for name in section.tenants) - {"*"}
