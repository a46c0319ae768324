"""Whose each session is: by id for whoever is first to say so, by name within its tenant."""

from __future__ import annotations

import re
from collections.abc import Callable

from bridgehold.errors import UsageError

_ID = re.compile(r"s-[0-9a-z]{16}")
"""What sessions' ids look like: no name that is known here does."""
_MOST = 4_096
"""Of each tenant's, ended ones too: the newest."""


class Directory:
    """What cells have said of their sessions. Each speaks for its own tenant alone."""

    def __init__(self) -> None:
        self._owners: dict[str, str] = {}
        self._known: dict[str, dict[str, None]] = {}
        """By tenant: its ids and names, the newest last."""

    def add(self, tenant: str, session: str, name: str) -> None:
        """A session of the tenant's; an id that another tenant has stays that one's."""
        known = self._known.setdefault(tenant, {})
        if not _ID.fullmatch(session) or _ID.fullmatch(name):
            return
        if self._owners.setdefault(session, tenant) == tenant:
            known.pop(session, None)
            known[session] = None
        known.pop(name, None)
        known[name] = None
        while len(known) > 2 * _MOST:
            gone = next(iter(known))
            del known[gone]
            if self._owners.get(gone) == tenant:
                del self._owners[gone]

    def owner(self, reference: str, may_act_for: Callable[[str], bool]) -> str:
        """The tenant whose session `reference` is, by id or name; empty where the caller may see none.

        Raises `UsageError` for a name that several of the caller's tenants have.
        """
        owner = self._owners.get(reference)
        if owner is not None:
            return owner if may_act_for(owner) else ""
        found = [
            tenant for tenant, known in self._known.items() if reference in known and may_act_for(tenant)
        ]
        if len(found) > 1:
            raise UsageError(
                f"{len(found)} tenants have a session {reference[:64]!r}",
                hint="Say its id: `bridgehold sessions` lists them.",
            )
        return found[0] if found else ""
