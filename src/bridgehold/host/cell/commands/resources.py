"""Which session made which resource: for routing by id, for listing, and for nobody else's eyes.

A resource is visible to who may act for its tenant; a guess at another tenant's id is "not found".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Literal

import msgspec

from bridgehold.bridges.manifest import Manifest, Operation
from bridgehold.errors import NotFoundError, UsageError
from bridgehold.protocol.values import ResourceRef

MOST_PER_SESSION, MOST_PER_TENANT = 10_000, 50_000
"""Beyond that a resource is there, and found by its session only: the host remembers no more."""
GONE_OF_A_TENANT, GONE_TENANTS = 256, 1_024
"""Of resources whose session has ended: so many are still known."""
_LONGEST_ID = 200
Act = Literal["create", "execute", "delete", "configure"]
_EFFECTS: dict[Act, tuple[str, ...]] = {
    "create": ("create",),
    "execute": ("run", "read"),
    "delete": ("delete",),
    "configure": ("configure",),
}
_VERBS: dict[Act, tuple[str, ...]] = {
    "create": ("create", "load"),
    "execute": ("execute", "run", "predict"),
    "delete": ("delete",),
    "configure": ("configure",),
}


class Resources:
    """What the sessions of this host hold, as their commands' results said."""

    def __init__(self) -> None:
        self._held: dict[str, dict[tuple[str, str], ResourceRef]] = {}
        self._gone: dict[str, dict[str, str]] = {}
        """By tenant and id, of those whose session has ended: which that was."""

    def note(
        self, operation: Operation, place: ResourceRef, arguments: Mapping[str, object], result: object
    ) -> None:
        """A command of `operation` went well; `place` says where, without id and kind."""
        if operation.effect not in ("create", "delete") or not operation.resource:
            return
        found = resource_id(operation, arguments, result)
        held = self._held.setdefault(place.session, {})
        if operation.effect == "delete":
            held.pop((operation.resource, found), None)
        elif found and len(held) < MOST_PER_SESSION and self._of(place.tenant) < MOST_PER_TENANT:
            held[operation.resource, found] = msgspec.structs.replace(
                place, id=found, kind=operation.resource
            )

    def _of(self, tenant: str) -> int:
        """How many of a tenant's are remembered."""
        held = (one for one in self._held.values() if one)
        return sum(len(one) for one in held if next(iter(one.values())).tenant == tenant)

    def forget(self, session: str) -> None:
        """It has ended: what it held is gone."""
        for one in list(self._held.pop(session, {}).values())[-GONE_OF_A_TENANT:]:
            gone = self._gone.setdefault(one.tenant, {})
            gone.pop(one.id, None)
            gone[one.id] = session
            while len(gone) > GONE_OF_A_TENANT:
                del gone[next(iter(gone))]
        while len(self._gone) > GONE_TENANTS:
            del self._gone[next(iter(self._gone))]

    def gone_with(self, tenant: str, name: str) -> str:
        """The session with which a resource of that id is gone; empty: none is known."""
        return self._gone.get(tenant, {}).get(name, "")

    def listed(
        self, may_see: Callable[[str], bool], *, bridge: str = "", kind: str = "", session: str = ""
    ) -> Iterator[ResourceRef]:
        """Of the tenants that `may_see` says; in the order they were made."""
        for held in self._held.values():
            for found in held.values():
                if (
                    may_see(found.tenant)
                    and bridge in ("", found.bridge)
                    and kind in ("", found.kind)
                    and session in ("", found.session, found.session_name)
                ):
                    yield found

    def find(
        self,
        may_see: Callable[[str], bool],
        name: str,
        *,
        bridge: str = "",
        kind: str = "",
        session: str = "",
    ) -> ResourceRef:
        """The one of that id. `NotFoundError`, always the same; `UsageError` where several have it."""
        found = [
            one for one in self.listed(may_see, bridge=bridge, kind=kind, session=session) if one.id == name
        ]
        if not found:
            raise NotFoundError(
                f"no resource {name[:80]!r} here", hint="`bridgehold resources` lists what you may see."
            )
        if len(found) > 1:
            places = ", ".join(f"{one.kind} of {one.bridge} in {one.session_name}" for one in found[:5])
            raise UsageError(f"{len(found)} resources are named {name[:80]!r}: {places}", hint="Say which.")
        return found[0]


def resource_id(operation: Operation, arguments: Mapping[str, object], result: object) -> str:
    """The id that a command made or removed (pure): the result's word, else the argument's."""
    said: list[object] = []
    if operation.effect == "create" and isinstance(result, dict):
        said = [result.get(f"{operation.resource}_id"), result.get(operation.id_field), result.get("id")]
    for one in (*said, arguments.get(operation.id_field)):
        if isinstance(one, str) and 0 < len(one) <= _LONGEST_ID and one.isprintable():
            return one
    return ""


def choose(manifest: Manifest, act: Act, kind: str, named: str = "") -> Operation:
    """The operation that does `act` on a `kind` (pure). `UsageError` names what there is."""
    found = [
        operation
        for operation in manifest.operations.values()
        if operation.effect in _EFFECTS[act] and kind in ("", operation.resource)
    ]
    if named:
        found = [operation for operation in found if operation.name == named]
    if len(found) == 1:
        return found[0]
    for verb in _VERBS[act]:
        plain = [one for one in found if one.name in (verb, f"{verb}_{one.resource}", f"{verb}_lm")]
        if len(plain) == 1:
            return plain[0]
    there = ", ".join(operation.name for operation in found) or "none"
    wanted = f"{act} {kind or 'it'}{f' named {named[:80]}' if named else ''}"
    raise UsageError(
        f"{manifest.name} has no single operation to {wanted}",
        hint=f"Name one with `operation`: {there}.",
        where=manifest.name,
    )
