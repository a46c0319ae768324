"""A cell's end of what the front decides for it: orders, grants, what it is told of sessions."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec

from bridgehold.audit.events import Event, GrantResolved
from bridgehold.bridges.manifest import Manifest
from bridgehold.errors import BridgeholdError, UsageError
from bridgehold.host.cell.sessions.session import SessionKey
from bridgehold.host.cell_parts import Shared
from bridgehold.host.front.boots import StartOrder
from bridgehold.host.front.environments import LISTENER
from bridgehold.host.shares import cell_wire
from bridgehold.host.shares.link import Link, decoded
from bridgehold.host.shares.session_ends import SessionEnd
from bridgehold.sandbox.envs.values import BuildProgress


class FrontOrders:
    """Orders that the front makes. What a session needs is decided there; this only asks."""

    def __init__(self, link: Link, shared: Shared) -> None:
        self._link = link
        self._shared = shared

    async def make(self, tenant: str, ask: cell_wire.AskOrder) -> StartOrder:
        """As `Orders.make`. Raises its typed errors."""
        try:
            raw = await self._link.ask("order", ask, _Steps())
            ordered: cell_wire.Ordered = decoded(raw, cell_wire.Ordered)
            manifest = self._shared.registry.manifest(ask.bridge, tenant)
            if manifest.digest != ordered.manifest:  # the front has seen a change that this cell has not
                self._shared.registry.look_again()
                manifest = self._shared.registry.manifest(ask.bridge, tenant)
            _same(manifest, ordered)
        except BaseException:
            self.over(ask.session)
            raise
        order = start_order(ask.session, ask.session_name, manifest, ordered)
        return msgspec.structs.replace(order, asked=ask.asked)

    def over(self, session: str) -> None:
        """A session that was ordered has ended, or did not begin."""
        if session:
            self._link.tell("over", cell_wire.SessionOver(session=session))

    def opened(self, session: str, key: SessionKey) -> None:
        """A session is open."""
        opened = cell_wire.SessionOpened(session=session, name=key.name, bridge=key.bridge)
        self._link.tell("opened", opened)

    async def ended(self, end: SessionEnd) -> None:
        """A session has ended: the front keeps how, for who asks once this cell is gone."""
        with contextlib.suppress(BridgeholdError):
            await self._link.ask("ended", end)


class FrontRecords:
    """What a grant rests on is the front's to write down: it resolves the grant itself."""

    def __init__(self, link: Link) -> None:
        self._link = link

    async def append(self, event: Event, *, durable: bool = True) -> None:
        """As a journal's, of what is said durably; the rest the front says itself."""
        if durable and isinstance(event, GrantResolved):
            await self._link.ask("granted", cell_wire.Granted(bridge=str(event.grant.get("bridge", ""))))


class _Steps:
    """Tells a build's steps to whoever this task's request is for."""

    def __init__(self) -> None:
        self._listener = LISTENER.get()

    def __call__(self, event: msgspec.Raw, /) -> None:
        if self._listener is not None:
            self._listener(decoded(event, BuildProgress))

    def full(self, _most: int = 0) -> bool:
        return False


def start_order(
    session: str, session_name: str, manifest: Manifest, ordered: cell_wire.Ordered
) -> StartOrder:
    """The order that the front has made."""
    return StartOrder(
        session=session,
        session_name=session_name,
        manifest=manifest,
        grant=ordered.grant,
        spec=ordered.spec,
        environment_digest=ordered.environment,
        bridge_folder=Path(ordered.folder),
        weights=ordered.weights,
        shapes=ordered.shapes,
        env_secrets=ordered.env_secrets,
    )


def _same(manifest: Manifest, ordered: cell_wire.Ordered) -> None:
    """Raise where the bridge that was ordered isn't the one that is read here."""
    if manifest.digest != ordered.manifest:
        raise UsageError(f"the bridge {manifest.name} has just changed", retry="same")
