"""The socket's methods for user scripts: one request from open to end, frames and end of input beside it."""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable

import msgspec

from bridgehold.audit.client import JournalClient
from bridgehold.audit.key_shapes import find_shape
from bridgehold.bridges.legacy.rpc_start import bounded, passing
from bridgehold.config.machine import real_folders
from bridgehold.config.settings import Settings
from bridgehold.errors import UsageError
from bridgehold.host.cell.commands.inline_keys import KeyKeeper
from bridgehold.host.cell.scripts.ledger import Ledger
from bridgehold.host.cell.scripts.relay import Relay
from bridgehold.host.cell.scripts.rpc_relay import RpcRelay
from bridgehold.host.cell.scripts.rules import formats_of, script_inside
from bridgehold.host.cell.sessions.bound import bound_session
from bridgehold.host.cell.sessions.session import Session, SessionKey
from bridgehold.host.cell.sessions.sessions import Sessions
from bridgehold.host.front.boots import GATEWAY_PORT, OrderMaker, Script, StartOrder
from bridgehold.host.front.outgoing import Emit
from bridgehold.host.front.registry import Registry
from bridgehold.host.shares.dialling import Connect
from bridgehold.host.shares.observe import Metrics
from bridgehold.host.shares.refusals import Refusals
from bridgehold.ids import parse_name, random_id
from bridgehold.policies.buckets import CommandRates
from bridgehold.policies.model import Grant
from bridgehold.protocol.frames import OpenScriptParams, ScriptEofParams, ScriptSendParams, ScriptWireParams
from bridgehold.protocol.values import Principal

_LEAST_TURNS = 2
"""Workers of a tenant that start at once, on a machine with fewer processors than that."""


class UserScripts:
    """Sessions whose worker is a user script: one of the tenant's own, by session id."""

    def __init__(
        self,
        *,
        registry: Registry,
        sessions: Sessions,
        journal: JournalClient,
        make_order: OrderMaker,
        settings: Settings,
        metrics: Metrics,
        refusals: Refusals,
        rates: CommandRates,
        keys: KeyKeeper,
        on_degraded: Callable[[str], None],
        connect: Connect,
    ) -> None:
        self._registry = registry
        self._connect = connect
        self._sessions = sessions
        self._journal = journal
        self._make_order = make_order
        self._settings = settings
        self._metrics = metrics
        self._refusals = refusals
        self._on_degraded = on_degraded
        self._relays: dict[str, Relay | RpcRelay] = {}
        self._rates = rates
        self._keys = keys
        self._turns: weakref.WeakValueDictionary[str, asyncio.Semaphore] = weakref.WeakValueDictionary()
        """By tenant; kept by the workers that have or await one."""

    def _turns_of(self, tenant: str) -> asyncio.Semaphore:
        turns = self._turns.get(tenant)
        if turns is None:
            most = max(_LEAST_TURNS, len(os.sched_getaffinity(0)))
            turns = self._turns[tenant] = asyncio.Semaphore(most)
        return turns

    async def open(self, principal: Principal, params: OpenScriptParams, emit: Emit) -> object:
        """Run a script for as long as this request lasts; its frames are events."""
        self._settings.features.demand("foreign", params.tenant)
        bridge = parse_name(params.bridge, "bridge")
        manifest = self._registry.manifest(bridge, params.tenant)
        if not manifest.foreign:
            raise UsageError(
                f"{bridge} runs no scripts of one's own", hint="`bridgehold stdio` is the plug for it."
            )
        script = script_inside(
            params.kind,
            params.text,
            params.args,
            params.path,
            scripts=await self._folders(bridge),
            bridge=bridge,
        )
        if params.callback:
            script = msgspec.structs.replace(
                script,
                callback=_checked(params.callback),
                environment=tuple(passing(params.environment, find_shape).items()),
            )
        key = SessionKey(parse_name(params.tenant, "tenant"), bridge, random_id("n", 10))
        kept_back = bounded(params.kept_back)

        async def rules() -> Grant:
            self._settings.features.demand("foreign", key.tenant)
            return await self._registry.grant(key.tenant, bridge)

        async def start() -> Session:
            session = await self._sessions.get_or_open(
                key, lambda name: self._order(key, name, script, principal.name, kept_back), principal.name
            )
            ledger = Ledger(
                session, principal, self._journal, self._metrics, self._refusals, self._on_degraded
            )
            relay: Relay | RpcRelay
            if script.callback:
                relay = RpcRelay(
                    session,
                    connect=self._connect,
                    turns=self._turns_of(key.tenant),
                    ledger=ledger,
                    rules=rules,
                    rates=self._rates,
                    emit=emit,
                    may_read=principal.may_read,
                )
            else:
                relay = Relay(
                    session,
                    formats=formats_of(manifest.foreign),
                    protocol=script.protocol,
                    ledger=ledger,
                    rules=rules,
                    rates=self._rates,
                    keys=self._keys,
                    emit=emit,
                    may_read=principal.may_read,
                )
            self._relays[session.id] = relay
            return session

        async def run(session: Session) -> None:
            await self._relays[session.id].start(script, principal)

        opening = asyncio.ensure_future(start())
        try:
            told = await bound_session(opening, emit, then=run)
            relay = self._relays[opening.result().id]
            relay.say_last_words()
            if told["cause"] == "exited" and told["exit"] == -1:
                told["exit"] = relay.exit_status
            return told
        finally:
            opening.add_done_callback(self._forget)

    async def _folders(self, bridge: str) -> tuple[str, ...]:
        """Those that its scripts lie in, without links; none where none is named."""
        return await asyncio.to_thread(real_folders, self._settings.bridge(bridge).scripts)

    def _forget(self, opening: asyncio.Future[Session]) -> None:
        """Also where the caller left before its session was open."""
        if not opening.cancelled() and opening.exception() is None:
            self._relays.pop(opening.result().id, None)

    async def send(self, principal: Principal, params: ScriptSendParams) -> object:
        """Bytes for the script's standard input. Raises `NotFoundError` for a session of another caller's."""
        await self._relay(principal, params.session).send(params.data, principal)
        return {}

    async def wire(self, principal: Principal, params: ScriptWireParams) -> object:
        """Bytes of a gRPC worker's caller. Raises as `send`; `UsageError` for a script that has none."""
        relay = self._relay(principal, params.session)
        if not isinstance(relay, RpcRelay):
            raise UsageError("this script has no connections")
        await relay.wire(params.conn, params.data, principal, end=params.end)
        return {}

    async def end_input(self, principal: Principal, params: ScriptEofParams) -> object:
        """The end of the script's standard input. Raises as `send`."""
        self._relay(principal, params.session).finish_input()
        return {}

    async def _order(
        self, key: SessionKey, session: str, script: Script, principal: str, kept_back: tuple[str, ...]
    ) -> StartOrder:
        order = await self._make_order(key.tenant, key.asks(session, principal))
        spec = msgspec.structs.replace(order.spec, callback_port=script.callback)
        return msgspec.structs.replace(order, script=script, spec=spec, kept_back=kept_back)

    def _relay(self, principal: Principal, session: str) -> Relay | RpcRelay:
        relay = self._relays.get(session)
        if relay is None or not principal.may_act_for(relay.session.key.tenant):
            raise self._sessions.why_missing(principal.may_act_for, session)
        principal.demand_bridge(relay.session.key.bridge)
        return relay


def _checked(port: int) -> int:
    """Raises `UsageError`: the sandbox has one loopback, on which the gateway listens too."""
    if not 1024 <= port <= 65535 or port == GATEWAY_PORT:
        raise UsageError(
            f"a worker can't call back at port {port} in a sandbox",
            hint=f"Give its starter a port from 1024 to 65535 other than {GATEWAY_PORT}.",
        )
    return port
